"""Near-duplicates among few and many thumbnails, and none among look-alikes."""

import io

import numpy as np
import pytest
from drawings import photo
from PIL import Image, ImageDraw
from scipy.fft import idctn

from imgcls.audit import near_duplicates
from imgcls.audit.image_stats import inspect_images


def near(thumbs):
    """Pairs among gray pictures."""
    return near_duplicates.find_near_duplicates(thumbs, np.full((len(thumbs), 4, 4, 3), 128, np.uint8))


def pairs_of(pictures):
    """Pairs among pictures, by what is known of them."""
    records, _ = inspect_images([encoded(picture) for picture in pictures])
    return {tuple(pair) for pair in near_duplicates.find_near_duplicates(records["thumb"], records["colour"]).tolist()}


def encoded(picture):
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def spectra(count, seed=0):
    """Thumbnails with a photo's spectrum, uint8 (count, 32, 32)."""
    rng = np.random.default_rng(seed)
    fall = 1 + np.add.outer(np.arange(32), np.arange(32))
    waves = idctn(rng.normal(size=(count, 32, 32)) / fall**1.3, axes=(1, 2), norm="ortho")
    return np.clip(127 + 50 * waves / waves.std((1, 2), keepdims=True), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("count", [500, 3_000])  # compared at once, and in cells
def test_find_near_duplicates_finds_mirrored_and_darker_copies(count):
    originals = spectra(count)
    copies = np.concatenate([originals[:50, :, ::-1], (originals[50:100] * 0.7).astype(np.uint8)])
    pairs = {tuple(pair) for pair in near(np.concatenate([originals, copies]))}
    expected = {(i, count + i) for i in range(100)}
    assert len(pairs & expected) >= 98
    assert len(pairs - expected) <= 1


def test_find_near_duplicates_finds_crops():
    pictures = [photo(320, 240, seed) for seed in range(40)]
    crops = [p.crop((20, 10, 310, 225)) for p in pictures]
    assert pairs_of(pictures + crops) == {(i, 40 + i) for i in range(40)}


def test_find_near_duplicates_ignores_another_place_or_colour():
    def disc(x, colour=(90, 60, 200), back=(60, 30, 70)):
        picture = Image.new("RGB", (160, 120), back)
        ImageDraw.Draw(picture).ellipse((x, 30, x + 60, 90), fill=colour)
        return picture

    green = disc(50, (60, 90, 40), (30, 65, 30))
    assert pairs_of([disc(50), disc(65), green, disc(51)]) == {(0, 3)}
    assert pairs_of([disc(50), disc(50).convert("L").convert("RGB")]) == {(0, 1)}


def test_find_near_duplicates_ignores_plain_pictures():
    plain = np.stack([np.full((32, 32), value, np.uint8) for value in (0, 0, 90, 90, 255)])
    assert len(near(plain)) == 0


@pytest.mark.parametrize("count", [0, 1])
def test_find_near_duplicates_of_one_image_or_none_is_empty(count):
    assert near(spectra(max(count, 1))[:count]).shape == (0, 2)


def test_find_near_duplicates_does_not_group_a_crowd_of_look_alikes():
    rng = np.random.default_rng(0)
    base = spectra(1)[0].astype(float)
    alike = np.clip(base + rng.normal(0, 9, (120, 32, 32)), 0, 255).astype(np.uint8)
    twins = np.concatenate([alike, alike[:1]])  # and two that are the same
    pairs = near(np.concatenate([twins, spectra(300, seed=1)]))
    assert (0, 120) in {tuple(pair) for pair in pairs}
    assert len(pairs) < 20


def test_find_exact_duplicates_numbers_groups_of_equal_digests():
    digests = np.array([[1, 2], [3, 4], [1, 2], [0, 0], [0, 0]], np.uint64)
    group = near_duplicates.find_exact_duplicates(digests)
    assert group[0] == group[2] >= 0
    assert list(group[[1, 3, 4]]) == [-1, -1, -1]
