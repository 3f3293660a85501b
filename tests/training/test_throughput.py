"""Images per second and the time that steps wait for images, measured without evaluation and logging."""

from types import SimpleNamespace

import pytest

from imgcls.training import throughput


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until the test moves its only element."""
    now = [0.0]
    monkeypatch.setattr(throughput.time, "monotonic", lambda: now[0])
    return now


def train(callback, clock, steps, first=1):
    """Steps of 0.25 s, an evaluation of 5 s after each, and 0.75 s until the next one."""
    for step in range(first, first + steps):
        callback.on_step_begin(None, None, None)
        clock[0] += 0.25
        callback.on_step_end(None, None, None)
        clock[0] += 5.0
        callback.on_evaluate(None, None, None)
        clock[0] += 0.75
        if step % 10 == 0:
            callback.on_log(None, None, None)
            clock[0] += 0.75


def test_throughput_counts_the_time_between_steps_as_waiting_but_not_evaluation(clock):
    callback = throughput.ThroughputCallback()
    assert callback.waiting_fraction is None
    callback.on_train_begin(None, SimpleNamespace(global_step=0), None)
    train(callback, clock, 30)
    assert callback.waiting_s == pytest.approx(29 * 0.75)
    assert callback.working_s == pytest.approx(30 * 0.25)
    assert callback.waiting_fraction == pytest.approx(29 * 0.75 / (29 * 0.75 + 30 * 0.25))


def test_since_last_log_starts_where_training_resumes(clock):
    callback = throughput.ThroughputCallback()
    clock[0] = 100.0  # the dry run is over
    callback.on_train_begin(None, SimpleNamespace(global_step=40), None)
    train(callback, clock, 2, first=41)
    assert callback.since_last_log(42, 8) == {"images_per_second": round(16 / 12, 1), "waiting": 0.6}
    train(callback, clock, 1, first=43)
    assert callback.since_last_log(43, 8) == {"images_per_second": round(8 / 6, 1), "waiting": 0.75}
