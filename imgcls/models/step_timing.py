"""Time a training step before training: does the batch fit in memory, and how long will the run take?

A timed step leaves no trace: batch norm statistics and random state are restored, gradients are zeroed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import nn
from torch.utils.data import Dataset

FEW_IMAGES = 4  # enough to time a slow CPU, where memory is not the question
WARM_UP_IMAGES = 2  # warm the kernels of a CPU; batch norm of a 1 x 1 map needs more than one image
QUICK_S = 0.15  # a CPU that takes less for FEW_IMAGES is timed with a whole batch: of few images most time is overhead
FORWARD_FRACTION = 1 / 3  # of the arithmetic of a training step


@dataclass(frozen=True)
class StepTime:
    """Seconds per image in training and evaluation, host and device together.

    images: in the timed step. train_read_s, evaluation_read_s: additional seconds the first time an image is read.
    """

    images: int
    train_s: float
    evaluation_s: float
    train_read_s: float = 0.0
    evaluation_read_s: float = 0.0

    def seconds(self, train: float, evaluated: float) -> float:
        """Duration of training on `train` images and evaluating `evaluated`, repetitions counted, after first reads."""
        return self.train_s * train + self.evaluation_s * evaluated

    def reading_seconds(self, train: int, evaluation: int) -> float:
        """Additional duration of reading a number of training and evaluation images for the first time."""
        return self.train_read_s * train + self.evaluation_read_s * evaluation


def time_step(
    network: nn.Module,
    batch_loss: Callable[[list], torch.Tensor],
    train: Dataset,
    evaluation: Dataset,
    batch: int,
    device: torch.device,
    *,
    whole_batch: bool = False,
) -> StepTime:
    """Time forward and backward pass of a whole batch, on a CPU of a few images; the optimizer takes no step.

    batch_loss: samples -> loss, as in training. train: see `image_datasets.TrainingDataset`. whole_batch: a whole
    batch on a CPU too. Raises the device's error when memory is exhausted.
    """
    is_whole = whole_batch or device.type != "cpu"
    images = batch if is_whole else min(batch, FEW_IMAGES)
    with _without_trace(network, device):
        first_s = _timed(lambda: _samples(train, images), device) / images
        train_read_s = max(0.0, first_s - _timed(lambda: _samples(train, images), device) / images)
        _backward(batch_loss, train, images if is_whole else min(images, WARM_UP_IMAGES))
        network.zero_grad()
        train_s = _timed(lambda: _backward(batch_loss, train, images), device) / images
        indices = range(min(len(cast("Sized", evaluation)), FEW_IMAGES))
        first_s = _timed(lambda: [evaluation[i] for i in indices], device) / max(len(indices), 1)
        again_s = _timed(lambda: [evaluation[i] for i in indices], device) / max(len(indices), 1)
    evaluation_s = again_s + train_s * FORWARD_FRACTION
    return StepTime(images, train_s, evaluation_s, train_read_s, evaluation_read_s=max(0.0, first_s - again_s))


def time_full_batch(
    step_time: StepTime,
    network: nn.Module,
    batch_loss: Callable[[list], torch.Tensor],
    train: Dataset,
    batch: int,
    device: torch.device,
) -> StepTime:
    """Time a whole batch where the step of a few images was quick; otherwise return `step_time`.

    Raises the device's error when memory is exhausted.
    """
    if step_time.images == batch or step_time.images * step_time.train_s >= QUICK_S:
        return step_time
    with _without_trace(network, device):
        train_s = _timed(lambda: _backward(batch_loss, train, batch), device) / batch
    evaluation_s = step_time.evaluation_s + (train_s - step_time.train_s) * FORWARD_FRACTION
    return replace(step_time, images=batch, train_s=train_s, evaluation_s=evaluation_s)


@contextmanager
def _without_trace(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Put the network in training mode; afterwards restore its buffers and the random state and zero the gradients."""
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


def _samples(train: Dataset, images: int) -> list:
    keys = [(0, i % len(cast("Sized", train)), True) for i in range(images)]
    fetch_batch = getattr(train, "__getitems__", None)
    return fetch_batch(keys) if fetch_batch else [train[key] for key in keys]


def _backward(batch_loss: Callable[[list], torch.Tensor], train: Dataset, images: int) -> None:
    batch_loss(_samples(train, images)).backward()


def _timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds until `work` is done on the device."""
    start = time.perf_counter()
    work()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter() - start
