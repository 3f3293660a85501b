"""One training step before training: does the batch fit in memory, and how long will the run take?

A rehearsal leaves no trace: batch norm statistics and random state are put back, gradients dropped.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.data import Dataset

FEW_IMAGES = 4  # enough to time a slow CPU, where memory is not tried
QUICK_S = 1.0  # a CPU that takes less for those rehearses a whole batch: of few images most time is overhead


@dataclass(frozen=True)
class Pace:
    """Seconds an image takes, host and device together; read_s, read_evaluated_s: more when it is first read."""

    train_s: float
    evaluation_s: float
    read_s: float = 0.0
    read_evaluated_s: float = 0.0

    def seconds(self, train: int, evaluated: int, read: int = 0, read_evaluated: int = 0) -> float:
        """Length of a run that trains on and evaluates so many images, repetitions counted, and reads so many."""
        computed = self.train_s * train + self.evaluation_s * evaluated
        return computed + self.read_s * read + self.read_evaluated_s * read_evaluated


def rehearse(
    network: nn.Module,
    step: Callable[[list], torch.Tensor],
    train: Dataset,
    evaluation: Dataset,
    batch: int,
    device: torch.device,
    *,
    whole: bool = False,
) -> Pace:
    """Take one optimizer-less step with a full batch (a few images on a slow CPU) and time it.

    step: samples -> loss, as training computes it. whole: a full batch on a slow CPU too.

    Raises what the device raises when memory is short.
    """
    count = batch if whole or device.type != "cpu" else min(batch, FEW_IMAGES)
    buffers = {name: value.clone() for name, value in network.named_buffers()}
    accelerators = [] if device.type == "cpu" else [device.index or 0]
    with torch.random.fork_rng(accelerators, device_type=device.type if accelerators else "cuda"):
        try:
            network.train()
            first_s = _timed(lambda: _samples(train, count), device) / count
            read_s = max(0.0, first_s - _timed(lambda: _samples(train, count), device) / count)
            _step(step, train, count)  # warms kernels up
            network.zero_grad()
            seconds = _timed(lambda: _step(step, train, count), device)
            if count < batch and seconds < QUICK_S:
                count = batch
                seconds = _timed(lambda: _step(step, train, count), device)
            train_s = seconds / count
            few = range(min(len(evaluation), FEW_IMAGES))
            unread_s, kept_s = (_timed(lambda: [evaluation[i] for i in few], device) / max(len(few), 1) for _ in "ab")
        finally:
            network.zero_grad()
            for name, value in network.named_buffers():
                value.copy_(buffers[name])
    evaluation_s = kept_s + train_s / 3  # a forward pass is a third of a training step's arithmetic
    return Pace(train_s, evaluation_s, read_s, max(0.0, unread_s - kept_s))


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
