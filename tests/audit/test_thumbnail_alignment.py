"""Alignment of thumbnails: shift, scale and brightness."""

import numpy as np
import pytest
from drawings import photo
from PIL import Image

from imgcls.audit.thumbnail_alignment import MAX_CROP, align_by_gauss_newton, detail_correlation


def thumb(picture, box=None):
    gray = picture.convert("L").resize((32, 32), Image.Resampling.BOX, box=box)
    return np.asarray(gray, np.float32)[None]


def align(first, second, steps=6):
    return align_by_gauss_newton(first, second, steps, np.zeros((1, 4), np.float32))


@pytest.mark.parametrize("seed", range(4))
def test_align_by_gauss_newton_finds_scale_and_shift_of_a_crop(seed):
    picture = photo(320, 320, seed)
    alignment = align(thumb(picture), thumb(picture, (20, 10, 310, 300)))
    assert alignment.correlation[0] > 0.98
    # 290 of 320 px: half a side is 14.5 of 16 px, its middle 165 and 155 instead of 160
    assert alignment.window[0] == pytest.approx([-1.5, 0.5, -1.5, -0.5], abs=0.3)


def test_align_by_gauss_newton_fits_and_clips_brightness():
    first = thumb(photo(320, 320, 1))
    second = np.clip(1.6 * first + 20, 0, 255)
    alignment = align(first, second)
    assert (second == 255).any()
    assert alignment.correlation[0] > 0.99
    assert np.abs(alignment.rendered - second).mean() < 4


def test_align_by_gauss_newton_never_gets_worse_with_more_steps():
    first, second = thumb(photo(320, 320, 2)), thumb(photo(320, 320, 3))
    scores = [align(first, second, steps).correlation[0] for steps in range(5)]
    assert scores == sorted(scores)


def test_align_by_gauss_newton_limits_the_window():
    first, second = thumb(photo(320, 320, 2)), thumb(photo(320, 320, 3))
    assert np.abs(align(first, second).window).max() <= np.float32(MAX_CROP * 32)


def test_detail_correlation_ignores_slow_changes_of_light():
    rng = np.random.default_rng(0)
    light = np.add.outer(np.linspace(0, 200, 32), np.linspace(0, 40, 32))
    one, other = (rng.normal(0, 8, (1, 32, 32)).astype(np.float32) for _ in range(2))
    ones = np.ones((1, 32, 32), np.float32)
    assert abs(detail_correlation(light + one, light + other, ones)[0]) < 0.2
    assert detail_correlation(light + one, one, ones)[0] > 0.9
