"""Crops of a whole batch at once against those of one photo at a time; a training set in GPU memory."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from drawings import photo
from picture_datasets import KEYS, KINDS, training_dataset

from imgcls.dataloading.augmentation import PARAM_COLUMNS, PARAMS_PER_IMAGE, PLANS
from imgcls.dataloading.crops import CropSpec, crop_and_resize
from imgcls.dataloading.gpu_images import FILTER_SUPPORT, GpuCropDataset, GpuImageStore, resize_weights
from imgcls.dataloading.image_datasets import collate

SIZES = [(90, 60), (60, 90), (64, 64), (200, 40), (33, 150), (7, 3), (2, 5), (1, 1)]  # width, height
CPU = torch.device("cpu")


def smooth(width, height, seed):
    return np.array(photo(width, height, seed))


def hard(width, height, seed):
    """Black and white side by side, where a cubic leaves 0..255 the furthest."""
    return np.random.default_rng(seed).integers(0, 2, (height, width, 3), np.uint8) * 255


def noisy(width, height, seed):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def store_of(photos):
    canvas = max(p.shape[0] for p in photos), max(p.shape[1] for p in photos)
    return GpuImageStore(iter(photos), len(photos), canvas, CPU)


def boxes_of(count, seed):
    """Indices of photos and boxes in them: anywhere, whole photos, single px, and along each edge."""
    generator = random.Random(seed)
    places = [(i, (0, 0, *size)) for i, size in enumerate(SIZES)]
    places += [(i, (w - 1, h - 1, w, h)) for i, (w, h) in enumerate(SIZES)]
    places += [(i, (0, 0, 1, 1)) for i in range(len(SIZES))]
    places += [(i, (w // 2, 0, w, h // 2 + 1)) for i, (w, h) in enumerate(SIZES)]
    while len(places) < count:
        i = generator.randrange(len(SIZES))
        left, top = (generator.randrange(side) for side in SIZES[i])
        places.append(
            (i, (left, top, generator.randint(left + 1, SIZES[i][0]), generator.randint(top + 1, SIZES[i][1])))
        )
    return torch.tensor([i for i, _ in places]), torch.tensor([box for _, box in places])


@pytest.mark.parametrize("px", [8, 48])
@pytest.mark.parametrize("resample", FILTER_SUPPORT, ids=lambda r: r.name)
@pytest.mark.parametrize("kind", [smooth, noisy, hard])
def test_crops_are_within_a_level_of_crop_and_resize(kind, resample, px):
    photos = [kind(*size, seed) for seed, size in enumerate(SIZES)]
    indices, boxes = boxes_of(150, px)
    crops = store_of(photos).crops(indices, boxes, torch.zeros(150, 2), CropSpec(px, resample))
    assert crops.shape == (150, 3, px, px)
    pairs = zip(indices.tolist(), boxes.tolist(), strict=True)
    expected = np.stack([crop_and_resize(photos[i], box, SIZES[i], CropSpec(px, resample)) for i, box in pairs])
    difference = (crops.round() - torch.from_numpy(expected).float()).abs().amax((1, 2, 3)).tolist()
    assert max(difference) <= 1, boxes[np.argmax(difference)]
    assert -0.001 < crops.min() <= crops.max() < 255.001


@pytest.mark.parametrize("resample", FILTER_SUPPORT, ids=lambda r: r.name)
def test_crops_are_flipped_where_asked(resample):
    store = store_of([smooth(*size, seed) for seed, size in enumerate(SIZES)])
    indices, boxes = boxes_of(60, 3)
    plain = store.crops(indices, boxes, torch.zeros(60, 2), CropSpec(24, resample))
    for flips, axes in (((1, 0), [3]), ((0, 1), [2]), ((1, 1), [2, 3])):
        crops = store.crops(indices, boxes, torch.tensor([flips] * 60), CropSpec(24, resample))
        torch.testing.assert_close(crops, plain.flip(axes), atol=0.01, rtol=0)
    mixed = torch.tensor([[i % 2, 0] for i in range(60)])
    crops = store.crops(indices, boxes, mixed, CropSpec(24, resample))
    torch.testing.assert_close(crops[1::2], plain.flip(3)[1::2], atol=0.01, rtol=0)
    torch.testing.assert_close(crops[::2], plain[::2], atol=0.01, rtol=0)


@pytest.mark.parametrize("support", sorted(FILTER_SUPPORT.values()))
def test_resize_weights_sum_to_one_and_are_zero_outside_the_box(support):
    generator = random.Random(int(support))
    count = 120
    ends = [sorted(generator.sample(range(count + 1), 2)) for _ in range(200)]
    low, high = torch.tensor([*ends, [0, count], [0, 1], [count - 1, count]]).T
    weights = resize_weights(low, high, torch.arange(len(low)) % 2, count, 32, support)
    assert weights.dtype == torch.float32
    assert weights.shape == (len(low), 32, count)
    torch.testing.assert_close(weights.sum(-1), torch.ones(len(low), 32), atol=1e-5, rtol=0)
    source = torch.arange(count)
    outside = (source < low[:, None]) | (source >= high[:, None])
    assert (weights.transpose(1, 2)[outside] == 0).all()


def test_crops_of_the_same_size_are_the_photo_itself():
    photos = [noisy(*size, seed) for seed, size in enumerate(SIZES)]
    for resample in FILTER_SUPPORT:
        crops = store_of(photos).crops(
            torch.tensor([0, 1]),
            torch.tensor([[10, 5, 42, 37], [28, 58, 60, 90]]),
            torch.zeros(2, 2),
            CropSpec(32, resample),
        )
        expected = np.stack([photos[0][5:37, 10:42], photos[1][58:90, 28:60]]).transpose(0, 3, 1, 2)
        assert torch.equal(crops.round(), torch.from_numpy(expected).float())


def test_gpu_crop_dataset_is_possible_once_all_photos_are_cached_and_for_gpu_crops_only(rows, folder):
    dataset = training_dataset(rows, folder)
    assert not GpuCropDataset(dataset).is_possible
    dataset.__getitems__(KEYS[:5])
    assert not GpuCropDataset(dataset).is_possible
    dataset.__getitems__(KEYS)
    assert GpuCropDataset(dataset).is_possible
    assert GpuCropDataset(training_dataset(rows, folder, name="vit-base")).is_possible  # bilinear
    for kind in ("light, nearest", "padded", "policy", "not cropped"):
        dataset = training_dataset(rows, folder, **KINDS[kind])
        dataset.__getitems__(KEYS)
        assert not GpuCropDataset(dataset).is_possible, kind
    assert not GpuCropDataset(training_dataset(rows, folder, cache_px=None)).is_possible
    assert not GpuCropDataset(training_dataset(rows)).is_possible


@pytest.mark.parametrize("name", ["resnet-18", "vit-base"])
def test_gpu_crop_dataset_gives_the_crops_of_the_training_dataset(rows, folder, decoded, name):
    dataset = training_dataset(rows, folder, name=name, plan=replace(PLANS["heavy"], flip="both"))
    expected = collate([dataset[key] for key in KEYS])
    assert len(expected["augmentation_params"][:, PARAM_COLUMNS.flips].unique(dim=0)) == 4
    crop_dataset = GpuCropDataset(dataset)
    store = crop_dataset.load(torch.device("cpu"))
    count = sum(decoded.values())
    batch = collate(crop_dataset.__getitems__(KEYS))
    assert batch.keys() == {"labels", "indices", "boxes", "augmentation_params"}
    assert batch["indices"].tolist() == [index for _, index, _ in KEYS]
    assert batch["boxes"].shape == (len(KEYS), 4)
    assert not batch["boxes"].is_floating_point()
    assert torch.equal(batch["labels"], expected["labels"])
    assert torch.equal(batch["augmentation_params"], expected["augmentation_params"])
    assert batch["augmentation_params"].shape == (len(KEYS), PARAMS_PER_IMAGE)
    crops = store.crops(
        batch["indices"], batch["boxes"], batch["augmentation_params"][:, PARAM_COLUMNS.flips], dataset.crop
    )
    assert (crops.round() - expected["pixel_values"].float()).abs().max() <= 1
    assert store.photos.nbytes == crop_dataset.required_bytes
    assert sum(decoded.values()) == count == len(rows)
