"""A thread per core for work on images, with one torch thread in each."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch.utils.data import get_worker_info

from imgcls.system import cpu

T = TypeVar("T")


def map_in_threads(calls: Sequence[Callable[[], T]]) -> list[T]:
    """The result of each call, in the given order; calls run in parallel, one thread per core.

    In a worker of a DataLoader they run one after the other, since the other workers use the other cores. A call must
    not use this function itself. Raises what the first failing call raises.
    """
    if len(calls) < 2 or get_worker_info() is not None:
        return [call() for call in calls]
    return list(_pool(os.getpid(), cpu.available_cores()).map(lambda call: call(), calls))


@functools.cache
def _pool(process: int, count: int) -> ThreadPoolExecutor:
    """The threads of a process: they do not survive a fork, hence the process id in the key.

    Each computes with one torch thread: images in parallel are faster than each image split among threads.
    """
    threads_before, all_started = torch.get_num_threads(), threading.Barrier(count)

    def limit_torch(_: int) -> None:
        torch.get_num_threads()  # otherwise torch sets its own number when this thread first computes
        torch.set_num_threads(1)
        all_started.wait()

    pool = ThreadPoolExecutor(count)
    list(pool.map(limit_torch, range(count)))
    torch.set_num_threads(threads_before)  # set_num_threads also changes the default of threads started later
    return pool
