"""Latency of one image."""

import itertools

import pytest

from imgcls.models import latency


def test_median_latencies_ms_takes_turns_and_leaves_the_warm_up_out(monkeypatch):
    clock = itertools.accumulate(itertools.cycle([0, 9, 0, 5, 0, 0.001, 0, 0.004]))
    monkeypatch.setattr(latency.time, "perf_counter", lambda: next(clock))
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    medians = latency.median_latencies_ms(calls, repeats=1, warm_up=1)
    assert order == ["a", "b", "a", "b"]
    assert medians == {"a": pytest.approx(1), "b": pytest.approx(4)}
