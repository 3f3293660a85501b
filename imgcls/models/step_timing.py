"""One training step before training: does the batch fit in memory, and how long will the run take?

A rehearsal leaves no trace: batch norm statistics and random state are put back, gradients dropped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.utils.data import Dataset

FEW_IMAGES = 4  # enough to time a slow CPU, where memory is not tried
WARM_IMAGES = 2  # warm kernels up on a CPU; batch norm of a pooled map wants more than one
QUICK_S = 0.15  # a CPU that takes less for those rehearses a whole batch: of few images most time is overhead
FORWARD = 1 / 3  # of a training step's arithmetic


@dataclass(frozen=True)
class StepTime:
    """Seconds an image takes, host and device together; read_s, read_evaluated_s: more when it is first read.

    images: of the step that was timed.
    """

    images: int
    train_s: float
    evaluation_s: float
    read_s: float = 0.0
    read_evaluated_s: float = 0.0

    def seconds(self, train: float, evaluated: float, read: int = 0, read_evaluated: int = 0) -> float:
        """Length of a run that trains on and evaluates so many images, repetitions counted, and reads so many."""
        computed = self.train_s * train + self.evaluation_s * evaluated
        return computed + self.read_s * read + self.read_evaluated_s * read_evaluated


def time_step(
    network: nn.Module,
    step: Callable[[list], torch.Tensor],
    train: Dataset,
    evaluation: Dataset,
    batch: int,
    device: torch.device,
    *,
    whole: bool = False,
) -> StepTime:
    """Take one optimizer-less step with a full batch (a few images on a CPU) and time it.

    step: samples -> loss, as training computes it. whole: a full batch on a CPU too.

    Raises what the device raises when memory is short.
    """
    count = batch if whole or device.type != "cpu" else min(batch, FEW_IMAGES)
    with _traceless(network, device):
        first_s = _timed(lambda: _samples(train, count), device) / count
        read_s = max(0.0, first_s - _timed(lambda: _samples(train, count), device) / count)
        _step(step, train, count if device.type != "cpu" or whole else min(count, WARM_IMAGES))
        network.zero_grad()
        train_s = _timed(lambda: _step(step, train, count), device) / count
        few = range(min(len(evaluation), FEW_IMAGES))
        unread_s, kept_s = (_timed(lambda: [evaluation[i] for i in few], device) / max(len(few), 1) for _ in "ab")
    return StepTime(count, train_s, kept_s + train_s * FORWARD, read_s, max(0.0, unread_s - kept_s))


def time_full_batch(
    pace: StepTime,
    network: nn.Module,
    step: Callable[[list], torch.Tensor],
    train: Dataset,
    batch: int,
    device: torch.device,
) -> StepTime:
    """The pace of a whole batch, where a step of few images was quick; else the pace that is known.

    Raises what the device raises when memory is short.
    """
    if pace.images == batch or pace.images * pace.train_s >= QUICK_S:
        return pace
    with _traceless(network, device):
        train_s = _timed(lambda: _step(step, train, batch), device) / batch
    evaluation_s = pace.evaluation_s + (train_s - pace.train_s) * FORWARD
    return replace(pace, images=batch, train_s=train_s, evaluation_s=evaluation_s)


@contextmanager
def _traceless(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Training's steps, after which all is as before."""
    buffers = {name: value.clone() for name, value in network.named_buffers()}
    accelerators = [] if device.type == "cpu" else [device.index or 0]
    with torch.random.fork_rng(accelerators, device_type=device.type if accelerators else "cuda"):
        try:
            network.train()
            yield
        finally:
            network.zero_grad()
            for name, value in network.named_buffers():
                value.copy_(buffers[name])


def _samples(train: Dataset, count: int) -> list:
    keys = [(0, i % len(train), True) for i in range(count)]
    return train.__getitems__(keys) if hasattr(train, "__getitems__") else [train[key] for key in keys]


def _step(step: Callable[[list], torch.Tensor], train: Dataset, count: int) -> None:
    step(_samples(train, count)).backward()


def _timed(work: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    work()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter() - start
