"""A set of photos on the accelerator, and random crops of a whole batch at once there.

With it an epoch moves nothing but numbers over the bus and needs no process that reads images.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from imgcls.dataloading import random_params
from imgcls.dataloading.crops import integer_boxes
from imgcls.dataloading.image_datasets import TrainingDataset
from imgcls.models.losses import PADDING_LABEL

FILTER_SUPPORT = {Image.Resampling.BILINEAR: 1.0, Image.Resampling.BICUBIC: 2.0}  # of each filter, in px of the result


class GpuImageStore:
    """Photos, uint8 (rows, columns, 3) each, in the corner of a canvas each, in the memory of `device`.

    canvas: rows and columns of the largest. Whole canvases are picked ten times as fast as photos that lie one after
    the other. Raises torch.OutOfMemoryError when they do not fit.
    """

    def __init__(self, photos: Iterable[np.ndarray], count: int, canvas: tuple[int, int], device: torch.device):
        # A row's colours side by side: then each filter is one product a photo, with nothing to be moved between.
        self.photos = torch.zeros(count, canvas[0], 3, _aligned(canvas[1]), dtype=torch.uint8, device=device)
        for i, photo in enumerate(photos):
            rows, columns = photo.shape[:2]
            self.photos[i, :rows, :, :columns] = torch.from_numpy(photo).to(device).permute(0, 2, 1)

    @staticmethod
    def bytes(count: int, canvas: tuple[int, int]) -> int:
        """What so many photos take on canvases of so many rows and columns."""
        return 3 * count * canvas[0] * _aligned(canvas[1])

    def crops(
        self, indices: torch.Tensor, boxes: torch.Tensor, mirrored: torch.Tensor, px: int, resample: int
    ) -> torch.Tensor:
        """Parts of photos, resized, antialiased: 0..255, (B, 3, px, px), within a level of `crops.crop`; half
        precision on accelerators.

        indices: (B,). boxes: int (B, 4), left, top, right, bottom of each part in px of its photo. mirrored: (B, 2),
        other than 0 where left and right, or top and bottom, are exchanged. A resized picture is a matrix product from
        either side, which accelerators do best.
        """
        kind = torch.float16 if indices.device.type != "cpu" else torch.float32
        reach = FILTER_SUPPORT[Image.Resampling(resample)]
        rows, columns = self.photos.shape[1], self.photos.shape[3]
        over = resize_weights(boxes[:, 1], boxes[:, 3], mirrored[:, 1], rows, px, reach, kind)
        beside = resize_weights(boxes[:, 0], boxes[:, 2], mirrored[:, 0], columns, px, reach, kind)
        wide = torch.bmm(self._picked(indices, kind).view(-1, rows * 3, columns), beside.transpose(1, 2))
        if reach > 1:  # as Pillow and torch, whose pictures between are uint8
            wide.clamp_(0, 255)
        resized = torch.bmm(over, wide.view(-1, rows, 3 * px))
        resized = resized.clamp_(0, 255) if reach > 1 else resized
        return resized.view(-1, px, 3, px).transpose(1, 2)

    def _picked(self, indices: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
        if self.photos.device.type == "mps":  # which has no views of other types
            return self.photos.index_select(0, indices).to(kind)
        # eight bytes at a time, for a uint8 at a time takes five times as long
        return self.photos.view(torch.int64).flatten(1).index_select(0, indices).view(torch.uint8).to(kind)


def _aligned(columns: int) -> int:
    """So many columns, or a few more, so that a row is whole words."""
    return -(-columns // 8) * 8


def resize_weights(
    low: torch.Tensor,
    high: torch.Tensor,
    mirrored: torch.Tensor,
    count: int,
    px: int,
    reach: float,
    kind: torch.dtype = torch.float32,
) -> torch.Tensor:
    """What each of `count` source px adds to each of `px` result px, (B, px, count) of a `kind`; rows sum to 1.

    low, high: (B,), the part of the source that is seen, in px. mirrored: (B,), other than 0 where the result runs
    from high to low. reach: 1 for a triangle, 2 for Keys' cubic (a = -0.5), both stretched where the part is made
    smaller, as Pillow and torch do.
    """
    low, high = low.view(-1, 1, 1), high.view(-1, 1, 1)
    scale = (high - low) / px
    stretch = scale.clamp(min=1.0)
    along = torch.arange(px, device=low.device).view(1, -1, 1) + 0.5
    middles = low + torch.where(mirrored.view(-1, 1, 1) != 0, px - along, along) * scale
    # Only the few sources within reach are computed, then put in place: a fifteenth of the time of computing all.
    taps = min(count, math.ceil(2 * reach * max(1.0, count / px)) + 1)
    source = (middles - reach * stretch).floor().long() + torch.arange(taps, device=low.device)
    distance = ((source + 0.5 - middles) / stretch).abs()
    if reach == 1:
        found = (1 - distance).clamp(min=0)
    else:
        near = (1.5 * distance - 2.5) * distance**2 + 1
        far = ((2.5 - 0.5 * distance) * distance - 4) * distance + 2
        found = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
    found = found * ((source >= low) & (source < high))
    found = found / found.sum(-1, keepdim=True)
    placed = torch.zeros(*found.shape[:2], count, dtype=kind, device=low.device)
    return placed.scatter_add_(2, source.clamp(0, count - 1), found.to(kind))


class GpuCropDataset(Dataset):
    """What a training view shows, its photos once on the accelerator; keys are those of the view."""

    def __init__(self, view: TrainingDataset):
        self.view = view
        self.labels = np.array(view.labels)
        self._sizes: np.ndarray | None = None  # width and height of each photo

    def __len__(self) -> int:
        return len(self.view)

    @property
    def is_possible(self) -> bool:
        """Whether all photos are kept and may be cropped on an accelerator."""
        view = self.view
        suits = view.short_px is not None and view.plan.crop_share is not None and view.plan.policy is None
        return suits and not view.padded and view.resample in FILTER_SUPPORT and view.missing() == 0

    @property
    def sizes(self) -> np.ndarray:
        """Width and height of each kept photo, (N, 2)."""
        if self._sizes is None:
            self._sizes = np.array([self.view.kept_size(i) for i in range(len(self))])
        return self._sizes

    @property
    def bytes(self) -> int:
        """What `photos` takes, once all are kept."""
        return GpuImageStore.bytes(len(self), self._canvas())

    def photos(self, device: torch.device) -> GpuImageStore:
        """All photos, copied to a device. Raises torch.OutOfMemoryError when they do not fit."""
        batches = (range(start, min(start + 64, len(self))) for start in range(0, len(self), 64))
        photos = (photo for batch in batches for photo in self.view.shrunk(batch, self.view.short_px))
        return GpuImageStore(photos, len(self), self._canvas(), device)

    def __getitems__(self, keys: Sequence[tuple[int, int, bool]]) -> dict[str, torch.Tensor]:
        """A batch: indices (B,), boxes int (B, 4), draws (B, DRAWS), labels (B,)."""
        view = self.view
        indices = np.array([index for _, index, _ in keys])
        numbers = random_params.uniform(view.seed, [key[:2] for key in keys])
        sizes = self.sizes[indices]
        boxes = integer_boxes(random_params.crop_boxes(numbers, sizes, view.plan.crop_share), sizes)
        labels = np.where([counted for *_, counted in keys], self.labels[indices], PADDING_LABEL)
        batch = {
            "indices": indices,
            "boxes": boxes,
            "draws": random_params.augmentation_params(numbers, view.plan),
            "labels": labels,
        }
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    def _canvas(self) -> tuple[int, int]:
        columns, rows = self.sizes.max(0).tolist()
        return rows, columns
