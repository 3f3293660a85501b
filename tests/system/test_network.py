"""A limit for calls that have none."""

import time

import pytest

from imgcls.system import network


def test_what_takes_too_long_is_not_waited_for():
    start = time.monotonic()
    with pytest.raises(TimeoutError, match="no answer within"):
        network.call_with_timeout(0.2, lambda: time.sleep(5))
    assert time.monotonic() - start < 1


def test_answers_and_errors_come_through():
    assert network.call_with_timeout(1, lambda: None) is None
    with pytest.raises(KeyError):
        network.call_with_timeout(1, lambda: {}["its own error"])
