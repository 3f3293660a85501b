"""The order in which an epoch presents its images."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


class EpochSampler(Sampler):
    """Yields the keys (epoch, index, counted) of an epoch: each image once, in an order that depends on (seed, epoch).

    Every batch is full: the last is filled with images of the epoch's start that are not counted, so batch norm
    never sees a batch of one, all processes take the same number of steps, and no image counts twice.
    batch_images: images of one batch over all processes. weights: one per image; an epoch then samples its images with
    replacement, in proportion to them.
    """

    def __init__(self, size: int, batch_images: int, seed: int, weights: torch.Tensor | None = None):
        self.size, self.batch_images, self.seed, self.epoch = size, batch_images, seed, 0
        self.weights = weights

    def __len__(self) -> int:
        return math.ceil(self.size / self.batch_images) * self.batch_images

    def __iter__(self) -> Iterator[tuple[int, int, bool]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        if self.weights is None:
            order = torch.randperm(self.size, generator=generator).tolist()
        else:
            order = torch.multinomial(self.weights, self.size, replacement=True, generator=generator).tolist()
        for position in range(len(self)):
            yield self.epoch, order[position % self.size], position < self.size
