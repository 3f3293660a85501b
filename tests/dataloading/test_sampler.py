"""The order of an epoch: each image once, full batches, or classes in balance."""

import pytest
import torch

from imgcls.dataloading.sampler import EpochSampler
from imgcls.models.losses import balanced_class_weights


@pytest.mark.parametrize(("size", "batch_images"), [(10, 4), (8, 4), (3, 8)])
def test_epoch_sampler_yields_each_image_once_in_full_batches(size, batch_images):
    sampler = EpochSampler(size, batch_images, seed=1)
    keys = {}
    for epoch in (0, 1):
        sampler.epoch = epoch
        keys[epoch] = list(sampler)
        assert len(keys[epoch]) == len(sampler)
        assert len(sampler) % batch_images == 0
        assert sorted(index for _, index, counted in keys[epoch] if counted) == list(range(size))
    assert list(sampler) == keys[1]
    if size > 3:
        assert [i for _, i, _ in keys[0]] != [i for _, i, _ in keys[1]]


def test_epoch_sampler_with_balanced_weights_yields_every_class_equally_often():
    labels = torch.tensor([0] * 900 + [1] * 100)
    sampler = EpochSampler(1000, 10, seed=1, weights=balanced_class_weights(labels, 2)[labels])
    fraction = labels[[index for _, index, _ in sampler]].float().mean()
    assert 0.45 < fraction < 0.55
    assert list(sampler) == list(sampler)
