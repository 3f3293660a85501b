"""Crops of a whole batch at once against those of one photo at a time."""

import random

import numpy as np
import pytest
import torch
from drawings import photo

from imgcls.dataloading.crops import CropSpec, crop_and_resize
from imgcls.dataloading.gpu_images import FILTER_SUPPORT, GpuImageStore, resize_weights

SIZES = [(90, 60), (60, 90), (64, 64), (200, 40), (33, 150), (7, 3), (2, 5), (1, 1)]  # width, height
CPU = torch.device("cpu")


def smooth(width, height, seed):
    return np.array(photo(width, height, seed))


def hard(width, height, seed):
    """Black and white side by side, where a cubic leaves 0..255 the furthest."""
    return np.random.default_rng(seed).integers(0, 2, (height, width, 3), np.uint8) * 255


def noisy(width, height, seed):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def resident(photos):
    canvas = max(p.shape[0] for p in photos), max(p.shape[1] for p in photos)
    return GpuImageStore(iter(photos), len(photos), canvas, CPU)


def boxes(count, seed):
    """Indices of photos and boxes in them: anywhere, whole photos, single px, and along each edge."""
    draw = random.Random(seed)
    found = [(i, (0, 0, *size)) for i, size in enumerate(SIZES)]
    found += [(i, (w - 1, h - 1, w, h)) for i, (w, h) in enumerate(SIZES)]
    found += [(i, (0, 0, 1, 1)) for i in range(len(SIZES))]
    found += [(i, (w // 2, 0, w, h // 2 + 1)) for i, (w, h) in enumerate(SIZES)]
    while len(found) < count:
        i = draw.randrange(len(SIZES))
        left, top = (draw.randrange(side) for side in SIZES[i])
        found.append((i, (left, top, draw.randint(left + 1, SIZES[i][0]), draw.randint(top + 1, SIZES[i][1]))))
    return torch.tensor([i for i, _ in found]), torch.tensor([box for _, box in found])


@pytest.mark.parametrize("px", [8, 48])
@pytest.mark.parametrize("resample", FILTER_SUPPORT, ids=lambda r: r.name)
@pytest.mark.parametrize("kind", [smooth, noisy, hard])
def test_crops_are_within_a_level_of_those_of_one_photo(kind, resample, px):
    photos = [kind(*size, seed) for seed, size in enumerate(SIZES)]
    indices, places = boxes(150, px)
    found = resident(photos).crops(indices, places, torch.zeros(150, 2), CropSpec(px, resample))
    assert found.shape == (150, 3, px, px)
    pairs = zip(indices.tolist(), places.tolist(), strict=True)
    expected = np.stack([crop_and_resize(photos[i], box, SIZES[i], CropSpec(px, resample)) for i, box in pairs])
    missed = (found.round() - torch.from_numpy(expected).float()).abs().amax((1, 2, 3)).tolist()
    assert max(missed) <= 1, places[np.argmax(missed)]
    assert -0.001 < found.min() <= found.max() < 255.001


@pytest.mark.parametrize("resample", FILTER_SUPPORT, ids=lambda r: r.name)
def test_mirrored_crops_are_the_others_mirrored(resample):
    stays = resident([smooth(*size, seed) for seed, size in enumerate(SIZES)])
    indices, places = boxes(60, 3)
    plain = stays.crops(indices, places, torch.zeros(60, 2), CropSpec(24, resample))
    for mirrored, axes in (((1, 0), [3]), ((0, 1), [2]), ((1, 1), [2, 3])):
        found = stays.crops(indices, places, torch.tensor([mirrored] * 60), CropSpec(24, resample))
        torch.testing.assert_close(found, plain.flip(axes), atol=0.01, rtol=0)
    mixed = torch.tensor([[i % 2, 0] for i in range(60)])
    found = stays.crops(indices, places, mixed, CropSpec(24, resample))
    torch.testing.assert_close(found[1::2], plain.flip(3)[1::2], atol=0.01, rtol=0)
    torch.testing.assert_close(found[::2], plain[::2], atol=0.01, rtol=0)


@pytest.mark.parametrize("reach", sorted(FILTER_SUPPORT.values()))
def test_weights_sum_to_one_and_look_at_nothing_outside_the_box(reach):
    draw = random.Random(int(reach))
    count = 120
    ends = [sorted(draw.sample(range(count + 1), 2)) for _ in range(200)]
    low, high = torch.tensor([*ends, [0, count], [0, 1], [count - 1, count]]).T
    found = resize_weights(low, high, torch.arange(len(low)) % 2, count, 32, reach)
    assert found.dtype == torch.float32
    assert found.shape == (len(low), 32, count)
    torch.testing.assert_close(found.sum(-1), torch.ones(len(low), 32), atol=1e-5, rtol=0)
    source = torch.arange(count)
    outside = (source < low[:, None]) | (source >= high[:, None])
    assert (found.transpose(1, 2)[outside] == 0).all()


def test_a_crop_of_the_same_size_is_the_photo_itself():
    photos = [noisy(*size, seed) for seed, size in enumerate(SIZES)]
    for resample in FILTER_SUPPORT:
        found = resident(photos).crops(
            torch.tensor([0, 1]),
            torch.tensor([[10, 5, 42, 37], [28, 58, 60, 90]]),
            torch.zeros(2, 2),
            CropSpec(32, resample),
        )
        expected = np.stack([photos[0][5:37, 10:42], photos[1][58:90, 28:60]]).transpose(0, 3, 1, 2)
        assert torch.equal(found.round(), torch.from_numpy(expected).float())
