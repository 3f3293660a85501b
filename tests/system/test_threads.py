"""Calls in parallel threads, each with one torch thread."""

import threading
import time

import pytest
import torch

from imgcls.errors import ImageError
from imgcls.system import threads
from imgcls.system.threads import map_in_threads


@pytest.fixture(autouse=True)
def four_cores(monkeypatch):
    """Four cores, in a process that gives torch three threads; the pool is a new one."""
    monkeypatch.setattr(threads.cpu, "available_cores", lambda: 4)
    threads._pool.cache_clear()
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)
    threads._pool.cache_clear()


def test_map_in_threads_runs_in_parallel_and_keeps_the_order():
    together = threading.Barrier(4, timeout=30)

    def call(i):
        together.wait()
        time.sleep(0.01 * (4 - i))
        return i

    assert map_in_threads([lambda i=i: call(i) for i in range(4)]) == [0, 1, 2, 3]
    assert map_in_threads([]) == []


def test_map_in_threads_raises_what_a_call_raises():
    def fail():
        raise ImageError("broken")

    with pytest.raises(ImageError, match="broken"):
        map_in_threads([fail, *[lambda: None] * 5])
    assert map_in_threads([lambda: 1] * 6) == [1] * 6


def test_map_in_threads_leaves_torch_s_number_of_threads():
    assert map_in_threads([torch.get_num_threads] * 8) == [1] * 8
    assert torch.get_num_threads() == 3
    later = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [3]
