"""Random crops of image files: their area and aspect, and decoding at a smaller scale."""

import random

import numpy as np
import pytest
from drawings import photo
from PIL import Image

from imgcls.config import recipes
from imgcls.data import decoding
from imgcls.dataloading.augmentation import PLANS
from imgcls.dataloading.crops import CropSpec, integer_boxes, read_crop
from imgcls.dataloading.random_params import UNIFORMS_PER_IMAGE, crop_boxes, uniform

BILINEAR = Image.Resampling.BILINEAR


def test_read_crop_has_the_area_and_aspect_asked_for(tmp_path):
    ramp = np.stack(np.broadcast_arrays(np.arange(256)[None, :], np.arange(256)[:, None], 0), -1).astype(np.uint8)
    file = tmp_path / "ramp.png"
    Image.fromarray(ramp).save(file)
    for numbers in uniform(0, [(0, index) for index in range(50)]):
        crop = read_crop(str(file), numbers, (0.35, 1.0), CropSpec(64, BILINEAR)).astype(float)
        width, height = (np.ptp(crop[..., i]) + 256 / 64 for i in (0, 1))  # the ramps tell how much it covers
        assert 0.3 < width * height / 256**2 <= 1.05
        assert 0.7 < width / height < 1.43


@pytest.mark.parametrize("orientation", [1, 6])
def test_read_crop_decodes_at_a_smaller_scale_with_the_same_result(tmp_path, monkeypatch, orientation):
    file = tmp_path / "photo.jpg"
    picture = photo(1200, 900, 3)
    exif = picture.getexif()
    exif[0x0112] = orientation
    picture.save(file, quality=95, exif=exif)
    numbers = uniform(4, [(0, 0)])[0]

    def crop():
        return read_crop(str(file), numbers, (0.35, 1.0), CropSpec(96, BILINEAR)).astype(float)

    scaled = crop()
    to_rgb = decoding.to_rgb
    monkeypatch.setattr(decoding, "to_rgb", lambda image, at_least=None: to_rgb(image))
    full = crop()
    assert not np.array_equal(scaled, full)
    assert np.abs(scaled - full).mean() < 2


@pytest.mark.parametrize("px", [(224, 224), (288, 192), (160, 160), (384, 256)])
@pytest.mark.parametrize("plan", ["light", "standard", "heavy"])
def test_crops_of_cached_photos_are_hardly_enlarged(plan, px):
    image_px, train_px = px
    area, generator = PLANS[plan].crop_area, random.Random(f"{plan} {px}")
    short = recipes.cache_px(image_px, train_px, area[0]).value
    assert short >= image_px * 8 / 7
    sizes = []
    for _ in range(2000):
        size = (short, round(short * generator.choice([1, 1.1, 4 / 3, 3 / 2, 16 / 9, 3])))
        sizes.append(size[:: generator.choice([1, -1])])
    numbers = np.random.default_rng(0).random((len(sizes), UNIFORMS_PER_IMAGE))
    boxes = integer_boxes(crop_boxes(numbers, np.array(sizes), area), np.array(sizes))
    smallest = min(short, (boxes[:, 2:] - boxes[:, :2]).min())
    assert smallest >= 0.86 * train_px  # the most elongated: a square of that area has as many px as the crop
