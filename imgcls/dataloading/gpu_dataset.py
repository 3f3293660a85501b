"""A training set whose photos are on the accelerator: the host deals numbers alone, and no process reads images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from imgcls.dataloading import random_params
from imgcls.dataloading.crops import integer_boxes
from imgcls.dataloading.gpu_images import FILTER_SUPPORT, GpuImageStore
from imgcls.dataloading.image_datasets import TrainingDataset
from imgcls.models.losses import PADDING_LABEL


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
