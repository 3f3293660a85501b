"""The photos of a training set in GPU memory, and random crops of a whole batch at once there.

An epoch then moves only indices and random parameters to the GPU, and no process reads images.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from imgcls.dataloading import random_params
from imgcls.dataloading.crops import CropSpec, integer_boxes
from imgcls.dataloading.image_datasets import TrainingDataset
from imgcls.models.losses import PADDING_LABEL

FILTER_SUPPORT = {Image.Resampling.BILINEAR: 1.0, Image.Resampling.BICUBIC: 2.0}  # of each filter, in px of the result
LOADED_PHOTOS = 64  # read at a time


class GpuImageStore:
    """Photos, uint8 (rows, columns, 3) each, in the corner of a canvas each, in the memory of `device`.

    canvas: rows and columns of the largest. Whole canvases are selected ten times as fast as photos that lie one after
    the other. Raises torch.OutOfMemoryError when they do not fit.
    """

    def __init__(self, photos: Iterable[np.ndarray], count: int, canvas: tuple[int, int], device: torch.device):
        # The colours of a row one after the other: then each filter is one product per photo, without a transposition.
        self.photos = torch.zeros(count, canvas[0], 3, _aligned(canvas[1]), dtype=torch.uint8, device=device)
        for i, photo in enumerate(photos):
            rows, columns = photo.shape[:2]
            self.photos[i, :rows, :, :columns] = torch.from_numpy(photo).to(device).permute(0, 2, 1)

    @staticmethod
    def required_bytes(count: int, canvas: tuple[int, int]) -> int:
        """Memory for `count` photos on canvases of these rows and columns."""
        return 3 * count * canvas[0] * _aligned(canvas[1])

    def crops(self, indices: torch.Tensor, boxes: torch.Tensor, flips: torch.Tensor, spec: CropSpec) -> torch.Tensor:
        """Parts of photos, resized with antialiasing: 0..255, (B, 3, px, px), float16 on accelerators, else float32.

        Within a level of `crops.crop_and_resize`. indices: (B,). boxes: int (B, 4), left, top, right, bottom in px of
        the photo. flips: (B, 2), other than 0 where flipped left-right, upside down. Resizing is a matrix product from
        either side, which accelerators do best.
        """
        dtype = torch.float16 if indices.device.type != "cpu" else torch.float32
        support = FILTER_SUPPORT[spec.resample]
        rows, columns = self.photos.shape[1], self.photos.shape[3]
        vertical = resize_weights(boxes[:, 1], boxes[:, 3], flips[:, 1], rows, spec.px, support, dtype)
        horizontal = resize_weights(boxes[:, 0], boxes[:, 2], flips[:, 0], columns, spec.px, support, dtype)
        narrowed = torch.bmm(self._select(indices, dtype).view(-1, rows * 3, columns), horizontal.transpose(1, 2))
        if support > 1:  # as Pillow and torch, whose intermediate images are uint8
            narrowed.clamp_(0, 255)
        resized = torch.bmm(vertical, narrowed.view(-1, rows, 3 * spec.px))
        resized = resized.clamp_(0, 255) if support > 1 else resized
        return resized.view(-1, spec.px, 3, spec.px).transpose(1, 2)

    def _select(self, indices: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        if self.photos.device.type == "mps":  # which has no views of other types
            return self.photos.index_select(0, indices).to(dtype)
        # eight bytes at a time: one uint8 at a time takes five times as long
        return self.photos.view(torch.int64).flatten(1).index_select(0, indices).view(torch.uint8).to(dtype)


def _aligned(columns: int) -> int:
    """Columns rounded up to whole 8-byte words."""
    return -(-columns // 8) * 8


def resize_weights(
    low: torch.Tensor,
    high: torch.Tensor,
    flips: torch.Tensor,
    count: int,
    px: int,
    support: float,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Weight of each of `count` source px in each of `px` result px, (B, px, count); rows sum to 1.

    low, high: (B,), the part of the source that is resized, in px. flips: (B,), other than 0 where the result runs
    from high to low. support: 1 for a triangle, 2 for Keys' cubic (a = -0.5), both stretched for downscaling, as in
    Pillow and torch.
    """
    low, high = low.view(-1, 1, 1), high.view(-1, 1, 1)
    scale = (high - low) / px
    stretch = scale.clamp(min=1.0)
    positions = torch.arange(px, device=low.device).view(1, -1, 1) + 0.5
    centers = low + torch.where(flips.view(-1, 1, 1) != 0, px - positions, positions) * scale
    # Only the few sources within the support are computed, then scattered: a fifteenth of the time of computing all.
    taps = min(count, math.ceil(2 * support * max(1.0, count / px)) + 1)
    source = (centers - support * stretch).floor().long() + torch.arange(taps, device=low.device)
    distance = ((source + 0.5 - centers) / stretch).abs()
    if support == 1:
        weights = (1 - distance).clamp(min=0)
    else:
        near = (1.5 * distance - 2.5) * distance**2 + 1
        far = ((2.5 - 0.5 * distance) * distance - 4) * distance + 2
        weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
    weights = weights * ((source >= low) & (source < high))
    weights = weights / weights.sum(-1, keepdim=True)
    dense = torch.zeros(*weights.shape[:2], count, dtype=dtype, device=low.device)
    return dense.scatter_add_(2, source.clamp(0, count - 1), weights.to(dtype))


class GpuCropDataset(Dataset):
    """The batches of a TrainingDataset as indices and boxes, for crops from a GpuImageStore; the same keys."""

    def __init__(self, training: TrainingDataset):
        self.training = training
        self.labels = np.array(training.labels)
        self._sizes: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.training)

    @property
    def is_possible(self) -> bool:
        """Whether all photos are cached, and crops and augmentation need nothing that only the CPU can do."""
        plan, crop = self.training.plan, self.training.crop
        suits = crop.cache_px is not None and plan.crop_area is not None and plan.policy is None
        return suits and not crop.padded and crop.resample in FILTER_SUPPORT and self.training.count_uncached() == 0

    @property
    def sizes(self) -> np.ndarray:
        """Width and height of each cached photo, (N, 2)."""
        if self._sizes is None:
            self._sizes = np.array([self.training.cached_size(i) for i in range(len(self))])
        return self._sizes

    @property
    def required_bytes(self) -> int:
        """Memory that `load` takes, once all photos are cached."""
        return GpuImageStore.required_bytes(len(self), self._canvas())

    def load(self, device: torch.device) -> GpuImageStore:
        """All photos, copied to a device. Raises torch.OutOfMemoryError when they do not fit."""
        starts = range(0, len(self), LOADED_PHOTOS)
        batches = (range(start, min(start + LOADED_PHOTOS, len(self))) for start in starts)
        photos = (photo for batch in batches for photo in self.training.shrunk_photos(batch))
        return GpuImageStore(photos, len(self), self._canvas(), device)

    def __getitems__(self, keys: Sequence[tuple[int, int, bool]]) -> dict[str, torch.Tensor]:
        """A batch: indices (B,), boxes int (B, 4), augmentation_params (B, PARAMS_PER_IMAGE), labels (B,)."""
        indices = np.array([index for _, index, _ in keys])
        uniforms = random_params.uniform(self.training.seed, [key[:2] for key in keys])
        sizes = self.sizes[indices]
        boxes = integer_boxes(random_params.crop_boxes(uniforms, sizes, self.training.crop_area), sizes)
        labels = np.where([counted for *_, counted in keys], self.labels[indices], PADDING_LABEL)
        batch = {
            "indices": indices,
            "boxes": boxes,
            "augmentation_params": random_params.augmentation_params(uniforms, self.training.plan),
            "labels": labels,
        }
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    def _canvas(self) -> tuple[int, int]:
        columns, rows = self.sizes.max(0).tolist()
        return rows, columns
