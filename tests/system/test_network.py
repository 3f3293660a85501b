"""Calls with a time limit."""

import time

import pytest

from imgcls.system import network


def test_call_with_timeout_does_not_wait_longer():
    start = time.monotonic()
    with pytest.raises(TimeoutError, match="no answer within"):
        network.call_with_timeout(0.2, lambda: time.sleep(5))
    assert time.monotonic() - start < 1


def test_call_with_timeout_returns_or_raises_what_the_function_does():
    assert network.call_with_timeout(1, lambda: None) is None
    with pytest.raises(KeyError):
        network.call_with_timeout(1, lambda: {}["its own error"])
