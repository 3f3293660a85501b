"""Computed features, and augmented images, as samples."""

import numpy as np
import torch
from picture_datasets import KEYS, training_dataset

from imgcls.dataloading.augmentation import DeviceAugmentation
from imgcls.dataloading.feature_dataset import AugmentedImageDataset, FeatureDataset
from imgcls.dataloading.image_datasets import collate
from imgcls.models.losses import PADDING_LABEL


def test_feature_dataset_takes_the_views_in_turn():
    dataset = FeatureDataset(np.stack([np.eye(3), 2 * np.eye(3)]).astype(np.float32), [2, 0, 1])
    assert dataset[1]["labels"] == dataset[7, 1, True]["labels"] == 0
    assert dataset[7, 1, False]["labels"] == PADDING_LABEL
    assert torch.equal(dataset[6, 2, True]["pixel_values"], torch.tensor([0.0, 0.0, 1.0]))
    assert torch.equal(dataset[7, 2, True]["pixel_values"], torch.tensor([0.0, 0.0, 2.0]))


def test_augmented_image_dataset_has_the_images_of_one_epoch(rows):
    training = training_dataset(rows)
    dataset = AugmentedImageDataset(training, epoch=3)
    keys = [key for key in KEYS if key[0] == 3]
    batch = collate(training.__getitems__(keys))
    expected = DeviceAugmentation(training.spec, training.plan)(batch["pixel_values"], batch["augmentation_params"])
    for (_, index, _), pixels in zip(keys, expected, strict=True):
        torch.testing.assert_close(dataset[index]["pixel_values"], pixels, atol=1e-5, rtol=0)
        assert dataset[index]["labels"] == training.labels[index]
    assert len(dataset) == len(training)
