"""Datasets for training a head alone, and for computing its features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from imgcls.dataloading.augmentation import DeviceAugmentation
from imgcls.dataloading.image_datasets import TrainingDataset
from imgcls.models.losses import PADDING_LABEL


class AugmentedImageDataset(Dataset):
    """One epoch of a training set, augmented and normalised, as evaluation samples."""

    def __init__(self, training: TrainingDataset, epoch: int):
        self.training, self.epoch = training, epoch
        self.augmentation = DeviceAugmentation(training.spec, training.plan)

    def __len__(self) -> int:
        return len(self.training)

    def __getitem__(self, index: int) -> dict:
        """{"pixel_values": float (3, px, px), "labels": int}."""
        sample = self.training[self.epoch, index, True]
        params = torch.tensor([sample["augmentation_params"]])
        pixels = self.augmentation(sample["pixel_values"][None], params)[0]
        return {"pixel_values": pixels, "labels": sample["labels"]}


class FeatureDataset(Dataset):
    """Computed features as samples, for training a head alone; keys as of TrainingDataset and EvaluationDataset.

    features: float32 (V, N, D), V views of each image, one after the other in successive epochs.
    """

    def __init__(self, features: np.ndarray, labels: Sequence[int]):
        self.features, self.labels = torch.from_numpy(features), list(labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: int | tuple[int, int, bool]) -> dict:
        """{"pixel_values": float (D,), "labels": int}."""
        epoch, index, counted = key if isinstance(key, tuple) else (0, key, True)
        return {
            "pixel_values": self.features[epoch % len(self.features), index],
            "labels": self.labels[index] if counted else PADDING_LABEL,
        }
