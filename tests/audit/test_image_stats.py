"""Statistics of image files from their headers and pixels."""

import io

import numpy as np
import pytest
from drawings import photo
from PIL import Image, ImageFilter, ImageOps

from imgcls.audit.image_stats import MAX_BYTES, inspect_images


def encoded(picture, kind="PNG", **extra):
    out = io.BytesIO()
    picture.save(out, kind, **extra)
    return out.getvalue()


def record(picture, kind="PNG", **extra):
    (found,), (reason,) = inspect_images([encoded(picture, kind, **extra)])
    assert reason is None
    return found


def test_inspect_images_reads_the_header():
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769)[0x9003] = "2021:05:04 03:02:01"
    found = record(photo(80, 60), "JPEG", exif=exif)
    assert (found["width"], found["height"], found["orientation"]) == (60, 80, 6)
    assert (found["format"], found["mode"], found["alpha"]) == (b"JPEG", b"RGB", False)
    assert found["taken"] == np.datetime64("2021-05-04T03:02:01").astype("M8[s]").astype(int)


@pytest.mark.parametrize("text", ["", "yesterday", "0000:00:00 00:00:00", "2021:13:45 99:99:99"])
def test_inspect_images_ignores_malformed_times(text):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = text
    assert record(photo(20, 20), "JPEG", exif=exif)["taken"] == 0


def test_inspect_images_digests_bytes():
    files = [encoded(photo(20, 20, seed)) for seed in (0, 1, 0)]
    first, second, third = inspect_images(files)[0]["digest"]
    assert (first == third).all()
    assert (first != second).any()


@pytest.mark.parametrize("index", range(6))
def test_inspect_images_entropy_equals_pillow(index):
    picture = photo(64, 64, index)
    assert record(picture)["entropy"] == pytest.approx(picture.entropy(), abs=1e-3)


def test_inspect_images_measures_brightness_at_both_ends():
    assert record(Image.new("RGB", (64, 64), "black"))["dark"] == 0
    assert record(Image.new("RGB", (64, 64), "white"))["bright"] == pytest.approx(1, abs=1e-3)
    half = Image.new("RGB", (64, 64))
    half.paste((255, 255, 255), (0, 0, 32, 64))
    found = record(half)
    assert (found["dark"], found["bright"]) == (pytest.approx(1, abs=1e-3), 0)


def test_inspect_images_sharpness_falls_with_blur_at_any_contrast():
    picture = photo(320, 240, 3)
    pale = picture.point(lambda v: 100 + v // 5)
    for image in (picture, pale):
        sharp, soft, softer = (record(image.filter(ImageFilter.GaussianBlur(r)))["sharpness"] for r in (0, 4, 8))
        assert sharp > 2 > soft > softer


@pytest.mark.parametrize(("bars", "fraction"), [((0, 24), 0.375), ((24, 0), 0.375), ((0, 0), 0)])
def test_inspect_images_measures_borders(bars, fraction):
    boxed = ImageOps.expand(photo(128 - 2 * bars[0], 128 - 2 * bars[1]), bars, (5, 5, 5))
    assert record(boxed)["border"] == pytest.approx(fraction, abs=0.04)


def test_inspect_images_gives_reasons_for_unreadable_sources():
    records, reasons = inspect_images([b"", encoded(photo(20, 20)), b"text", "/nowhere/x.jpg"])
    assert [reason is None for reason in reasons] == [False, True, False, False]
    assert "No such file" in reasons[3]
    assert not records[0]["digest"].any()
    assert records[1]["width"] == 20


def test_inspect_images_does_not_read_a_vast_sparse_file(tmp_path):
    with open(tmp_path / "vast.jpg", "wb") as file:
        file.truncate(10_000_000_000)
    (_,), (reason,) = inspect_images([str(tmp_path / "vast.jpg")])
    assert reason == "a file larger than any photo"
    assert MAX_BYTES < 10_000_000_000
