"""Every mode and format against the pixels it must give."""

import io
import os
import struct
import warnings

import numpy as np
import pillow_heif
import pytest
from drawings import photo
from PIL import Image, ImageOps

from imgcls.errors import ImageError
from imgcls.images import displayed_size, is_image, load_rgb, open_image, to_rgb, unreadable_reason

SIZE = (48, 32)
RAMP = np.tile(np.arange(0, 240, 5, dtype=np.uint8), (32, 1))  # 48 wide, 32 high


def gray_rgb(values):
    """(H, W) -> (H, W, 3)."""
    return np.stack([values] * 3, axis=-1)


def colours():
    """Smooth RGB, (32, 48, 3), no two corners alike."""
    y, x = np.mgrid[:32, :48]
    return np.stack([x * 5, y * 7, 255 - x * 2 - y * 3], axis=-1).astype(np.uint8)


def pixels(source):
    image = load_rgb(source)
    assert image.mode == "RGB"
    return np.asarray(image)


def saved(path, image, **options):
    image.save(path, **options)
    return path


def by_pillow(path):
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def difference(a, b):
    """Mean absolute difference in grey levels."""
    return np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).mean()


# Where orientation n puts the stored pixels; EXIF 2.32, tag 0x0112.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


def oriented(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_orientation(tmp_path, orientation, suffix):
    options = {"lossless": True} if suffix == "webp" else {}
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(colours()), exif=oriented(orientation), **options)
    expected = UPRIGHT[orientation](colours())
    np.testing.assert_array_equal(pixels(path), expected)
    with open_image(path) as image:
        assert displayed_size(image) == expected.shape[1::-1]


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_orientation_of_a_jpeg(tmp_path, orientation):
    path = saved(tmp_path / "a.jpg", Image.fromarray(colours()), exif=oriented(orientation), quality=95)
    assert difference(pixels(path), UPRIGHT[orientation](colours())) < 4
    np.testing.assert_array_equal(pixels(path), by_pillow(path))


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_orientations_that_do_not_exist_turn_nothing(tmp_path, orientation):
    path = saved(tmp_path / "a.png", Image.fromarray(colours()), exif=oriented(orientation))
    np.testing.assert_array_equal(pixels(path), colours())


@pytest.mark.parametrize("orientation", [6, 8])
def test_turned_once_only(tmp_path, orientation):
    path = saved(tmp_path / "a.jpg", photo(90, 60, seed=0), exif=oriented(orientation))
    rgb = load_rgb(path)
    assert rgb.size == (60, 90)
    assert rgb.getexif().get(0x0112, 1) == 1
    again = saved(tmp_path / "again.png", rgb)
    assert load_rgb(again).size == (60, 90)


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "tif", "ppm", "jp2", "tga", "pcx"])
def test_ordinary_rgb_is_pillow_s(tmp_path, suffix):
    path = saved(tmp_path / f"a.{suffix}", photo(70, 50, seed=1))
    np.testing.assert_array_equal(pixels(path), by_pillow(path))


def test_gray(tmp_path):
    np.testing.assert_array_equal(pixels(saved(tmp_path / "a.png", Image.fromarray(RAMP))), gray_rgb(RAMP))
    assert difference(pixels(saved(tmp_path / "a.jpg", Image.fromarray(RAMP))), gray_rgb(RAMP)) < 2


def over_white(values, alpha):
    """values: (H, W, C). alpha: (H, W)."""
    share = alpha[..., None] / 255
    return values * share + 255 * (1 - share)


def test_gray_with_alpha_is_put_on_white(tmp_path):
    alpha = RAMP[::-1, ::-1]
    image = Image.merge("LA", [Image.fromarray(RAMP), Image.fromarray(alpha)])
    found = pixels(saved(tmp_path / "a.png", image))
    assert np.abs(found - over_white(gray_rgb(RAMP), alpha)).max() <= 1


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_rgba_is_put_on_white(tmp_path, suffix):
    alpha = RAMP[::-1, ::-1].copy()
    alpha[:8], alpha[8:16] = 0, 255
    image = Image.fromarray(colours())
    image.putalpha(Image.fromarray(alpha))
    options = {"lossless": True, "exact": True} if suffix == "webp" else {}
    found = pixels(saved(tmp_path / f"a.{suffix}", image, **options))
    assert np.abs(found - over_white(colours(), alpha)).max() <= 1
    assert (found[:8] == 255).all()
    np.testing.assert_array_equal(found[8:16], colours()[8:16])


def palette_image():
    image = Image.fromarray(np.arange(32 * 48, dtype=np.int64).reshape(32, 48).astype(np.uint8) % 4, mode=None)
    image = image.convert("L")
    palette = Image.new("P", SIZE)
    palette.putdata(list(image.tobytes()))
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 10, 20, 30])
    table = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [10, 20, 30]], np.uint8)
    return palette, table, np.asarray(palette)


@pytest.mark.parametrize("suffix", ["png", "gif", "bmp", "tif"])
def test_palette(tmp_path, suffix):
    image, table, index = palette_image()
    np.testing.assert_array_equal(pixels(saved(tmp_path / f"a.{suffix}", image)), table[index])


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_palette_with_one_transparent_colour(tmp_path, suffix):
    image, table, index = palette_image()
    table[2] = 255
    np.testing.assert_array_equal(pixels(saved(tmp_path / f"a.{suffix}", image, transparency=2)), table[index])


def test_palette_with_alpha_per_colour(tmp_path):
    image, table, index = palette_image()
    alpha = np.array([255, 0, 128, 255])
    found = pixels(saved(tmp_path / "a.png", image, transparency=bytes(alpha.tolist())))
    expected = over_white(table[index], alpha[index])
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_transparent_colour_of_other_modes(tmp_path, mode):
    image = Image.fromarray(colours()).convert(mode)
    first = image.getpixel((0, 0))
    found = pixels(saved(tmp_path / "a.png", image, transparency=first))
    assert (found[0, 0] == 255).all()
    np.testing.assert_array_equal(found[20, 20], np.asarray(image.convert("RGB"))[20, 20])


def test_cmyk(tmp_path):
    image = Image.fromarray(colours()).convert("CMYK")
    assert difference(pixels(saved(tmp_path / "a.jpg", image, quality=95)), colours()) < 6
    np.testing.assert_array_equal(pixels(saved(tmp_path / "a.tif", image)), colours())


def test_lab_and_ycbcr_tiff(tmp_path):
    path = saved(tmp_path / "a.tif", Image.fromarray(colours()).convert("YCbCr"))
    assert difference(pixels(path), colours()) < 3


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "pbm"])
def test_one_bit(tmp_path, suffix):
    bits = (np.indices((32, 48)).sum(axis=0) % 3 == 0).astype(np.uint8) * 255
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(bits).convert("1"))
    np.testing.assert_array_equal(pixels(path), gray_rgb(bits))


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("top", [65535, 40_000, 4095, 900])
def test_sixteen_bit_gray_is_scaled_by_its_full_range(tmp_path, suffix, top):
    wide = np.linspace(0, top, 32 * 48).astype(np.uint16).reshape(32, 48)
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(wide))
    np.testing.assert_array_equal(pixels(path), gray_rgb(np.round(wide / 257).astype(np.uint8)))


def test_sixteen_bit_pgm(tmp_path):
    wide = np.linspace(0, 65535, 32 * 48).astype(">u2").reshape(32, 48)
    path = tmp_path / "a.pgm"
    path.write_bytes(b"P5 48 32 65535\n" + wide.tobytes())
    np.testing.assert_array_equal(pixels(path), gray_rgb(np.round(wide / 257).astype(np.uint8)))


def test_sixteen_bit_big_endian_tiff(tmp_path):
    """A TIFF written by hand: MM byte order, one strip of 16 bit grey."""
    wide = np.linspace(0, 65535, 32 * 48).astype(">u2").reshape(32, 48)
    tags = [(256, 3, 48), (257, 3, 32), (258, 3, 16), (259, 3, 1), (262, 3, 1), (277, 3, 1), (278, 3, 32)]
    start = 8 + 2 + 12 * (len(tags) + 2) + 4
    rows = [struct.pack(">HHIHH", tag, kind, 1, value, 0) for tag, kind, value in tags]
    rows += [struct.pack(">HHII", 273, 4, 1, start), struct.pack(">HHII", 279, 4, 1, wide.nbytes)]
    rows.sort()
    data = b"MM\0*" + struct.pack(">IH", 8, len(rows)) + b"".join(rows) + bytes(4) + wide.tobytes()
    np.testing.assert_array_equal(pixels(data), gray_rgb(np.round(wide / 257).astype(np.uint8)))


def test_sixteen_bit_gray_with_a_transparent_value(tmp_path):
    wide = np.linspace(0, 65535, 32 * 48).astype(np.uint16).reshape(32, 48)
    path = saved(tmp_path / "a.png", Image.fromarray(wide), transparency=0)
    np.testing.assert_array_equal(pixels(path)[1:], gray_rgb(np.round(wide / 257).astype(np.uint8))[1:])


@pytest.mark.parametrize(("top", "full"), [(200, 255), (50_000, 65535), (1_000_000, 1_000_000)])
def test_mode_i(tmp_path, top, full):
    wide = np.linspace(0, top, 32 * 48).astype(np.int32).reshape(32, 48)
    path = saved(tmp_path / "a.tif", Image.fromarray(wide))
    with Image.open(path) as image:
        assert image.mode == "I"
    np.testing.assert_array_equal(pixels(path), gray_rgb(np.round(wide * (255 / full)).astype(np.uint8)))


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.2, 0.7), (0.0, 1000.0), (-3.0, 5.0), (300.0, 301.0)])
def test_float_tiff(tmp_path, low, high):
    values = np.linspace(low, high, 32 * 48, dtype=np.float32).reshape(32, 48)
    found = pixels(saved(tmp_path / "a.tif", Image.fromarray(values)))
    share = values if 0 <= low <= high <= 1 else (values - low) / (high - low)
    np.testing.assert_array_equal(found[..., 0], np.round(share.astype(np.float64) * 255).astype(np.uint8))


@pytest.mark.parametrize("value", [0.0, 0.5, 7.0, -2.0])
def test_flat_float_tiff(tmp_path, value):
    found = pixels(saved(tmp_path / "a.tif", Image.fromarray(np.full((4, 4), value, np.float32))))
    assert (found == (128 if value == 0.5 else 0)).all()


def test_float_tiff_that_is_not_finite(tmp_path):
    values = np.zeros((4, 4), np.float32)
    values[1, 2] = np.nan
    path = saved(tmp_path / "a.tif", Image.fromarray(values))
    with pytest.raises(ImageError, match="not finite"):
        load_rgb(path)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_first_frame_of_an_animation(tmp_path, suffix):
    frames = [Image.new("RGB", SIZE, c) for c in ("red", "lime", "blue")]
    options = {"lossless": True} if suffix == "webp" else {}
    path = saved(tmp_path / f"a.{suffix}", frames[0], save_all=True, append_images=frames[1:], **options)
    with Image.open(path) as image:
        assert image.n_frames == 3
    assert (pixels(path) == [255, 0, 0]).all()


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("suffix", ["heic", "avif"])
def test_heic_and_avif(tmp_path, suffix, orientation):
    pillow_heif.register_heif_opener()
    path = tmp_path / f"a.{suffix}"
    original = photo(96, 64, seed=2)
    original.save(path, quality=90, exif=oriented(orientation).tobytes())
    expected = UPRIGHT[orientation](np.asarray(original))
    assert pixels(path).shape == expected.shape
    assert difference(pixels(path), expected) < 6
    with open_image(path) as image:
        assert displayed_size(image) == expected.shape[1::-1]


# Truncated, damaged, absent.


def cut(path, data):
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "bmp", "heic", "avif"])
def test_truncated(tmp_path, suffix):
    pillow_heif.register_heif_opener()
    whole = saved(tmp_path / f"whole.{suffix}", photo(320, 240, seed=3))
    assert unreadable_reason(whole) is None
    data = whole.read_bytes()
    for share in (0.3, 0.5, 0.7):
        path = cut(tmp_path / f"cut.{suffix}", data[: int(share * len(data))])
        with pytest.raises(ImageError) as caught:
            load_rgb(path)
        assert str(path) in str(caught.value)
        reason = unreadable_reason(path)
        assert reason
        assert str(tmp_path) not in reason
        assert unreadable_reason(path.read_bytes())


@pytest.mark.parametrize("progressive", [False, True], ids=["baseline", "progressive"])
@pytest.mark.parametrize("size", [(960, 720), (200, 150)], ids=str)
def test_truncated_jpeg_shows_at_an_eighth(tmp_path, size, progressive):
    data = saved(tmp_path / "a.jpg", photo(*size, seed=4), quality=90, progressive=progressive).read_bytes()
    assert unreadable_reason(data) is None
    for kept in (data[: int(0.7 * len(data))], data[:-200]):
        assert "truncated" in unreadable_reason(cut(tmp_path / "cut.jpg", kept))
        with pytest.raises(ImageError, match="cut"):
            load_rgb(tmp_path / "cut.jpg")


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("empty.jpg", b"", "the file is empty"),
        ("empty.png", b"", "the file is empty"),
        ("text.jpg", b"<html>404 not found</html>", "not an image that can be read"),
        ("zeros.png", bytes(1000), "not an image that can be read"),
        ("head.jpg", b"\xff\xd8\xff", None),
        ("head.png", b"\x89PNG\r\n\x1a\n", None),
        ("head.webp", b"RIFF\x10\0\0\0WEBPVP8 ", None),
        ("head.gif", b"GIF89a", None),
        ("head.tif", b"II*\0", None),
        ("head.bmp", b"BM", None),
        ("head.heic", b"\0\0\0\x18ftypheic", None),
    ],
    ids=lambda v: v if isinstance(v, str) and "." in v else "",
)
def test_no_image(tmp_path, name, data, reason):
    path = cut(tmp_path / name, data)
    with pytest.raises(ImageError) as caught:
        load_rgb(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(path) not in str(caught.value).removeprefix(f"{path}: ")
    found = unreadable_reason(path)
    assert found
    assert reason in (None, found)
    assert unreadable_reason(data)


def test_missing_file(tmp_path):
    path = tmp_path / "gone.jpg"
    with pytest.raises(ImageError) as caught:
        open_image(path)
    assert str(caught.value) == f"{path}: no such file"
    assert unreadable_reason(path) == "no such file"
    assert unreadable_reason(str(path)) == "no such file"
    assert unreadable_reason(tmp_path)


def test_random_damage_gives_pixels_or_an_image_error(tmp_path):
    """Bytes overwritten at random in every format: no other exception, no warning."""
    pillow_heif.register_heif_opener()
    rng = np.random.default_rng(0)
    for suffix in ("jpg", "png", "gif", "webp", "tif", "bmp", "heic", "avif"):
        data = saved(tmp_path / f"a.{suffix}", photo(64, 48, seed=5), exif=oriented(6)).read_bytes()
        for _ in range(25):
            broken = np.frombuffer(data, np.uint8).copy()
            broken[rng.integers(0, min(len(data), 400), 6)] = rng.integers(0, 256, 6)
            try:
                assert load_rgb(broken.tobytes()).mode == "RGB"
            except ImageError as error:
                assert str(error).startswith("image: ")  # noqa: PT017


@pytest.mark.parametrize("place", [2, 8, 12, 20])
def test_damaged_exif_is_no_warning_and_no_error(tmp_path, place):
    exif = oriented(6)
    exif[0x010F], exif[0x0110], exif[0x9003] = "maker", "model", "2024:01:01 00:00:00"
    block = bytearray(exif.tobytes())
    block[6 + place : 6 + place + 6] = b"\xff" * 6
    path = saved(tmp_path / "a.jpg", photo(90, 60, seed=6), exif=bytes(block))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_rgb(path).size in {(90, 60), (60, 90)}
        assert unreadable_reason(path) is None


def test_bombs_are_refused_and_large_pictures_are_not(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png", Image.new("RGB", (100, 100)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 8000)  # Pillow warns above it
    assert load_rgb(path).size == (100, 100)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)  # and refuses above twice that
    with pytest.raises(ImageError, match="too many pixels"):
        load_rgb(path)


# Decoding at a reduced scale.


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("size", [(801, 603), (960, 720), (127, 333)], ids=str)
@pytest.mark.parametrize("asked", [(224, 224), (100.5, 75.2), (1, 1), (0.3, 0.3), (37, 300), (5000, 5000)], ids=str)
def test_at_least(tmp_path, size, asked, orientation):
    path = saved(tmp_path / "a.jpg", photo(*size, seed=7), exif=oriented(orientation), quality=95)
    full = load_rgb(path)
    with open_image(path) as image:
        shown = displayed_size(image)
        small = to_rgb(image, at_least=asked)
    assert full.size == shown
    for side, most, least in zip(small.size, full.size, asked, strict=True):
        assert min(most, least) <= side <= most
    goal = (min(64, small.width), min(64, small.height))
    assert (
        difference(full.resize(goal, Image.Resampling.BOX), small.resize(goal, Image.Resampling.BOX)) < 3.5
    )  # a last block of one pixel stretches 801 px to 808


def test_at_least_saves_pixels(tmp_path):
    path = saved(tmp_path / "a.jpg", photo(1600, 1200, seed=8))
    with open_image(path) as image:
        assert to_rgb(image, at_least=(400, 300)).size == (400, 300)
    with open_image(path) as image:
        assert to_rgb(image, at_least=(401, 10)).size == (800, 600)
    turned = saved(tmp_path / "b.jpg", photo(1600, 1200, seed=8), exif=oriented(6))
    with open_image(turned) as image:
        assert to_rgb(image, at_least=(300, 400)).size == (300, 400)
    with open_image(turned) as image:
        assert to_rgb(image, at_least=(301, 10)).size == (600, 800)


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_at_least_leaves_other_formats_whole(tmp_path, suffix):
    path = saved(tmp_path / f"a.{suffix}", photo(400, 300, seed=9))
    with open_image(path) as image:
        small = to_rgb(image, at_least=(10, 10))
    np.testing.assert_array_equal(np.asarray(small), pixels(path))


def test_at_least_of_gray_and_cmyk_jpegs(tmp_path):
    for mode in ("L", "CMYK"):
        path = saved(tmp_path / f"{mode}.jpg", photo(400, 300, seed=10).convert(mode), quality=95)
        with open_image(path) as image:
            small = to_rgb(image, at_least=(100, 75))
        assert small.mode == "RGB"
        assert difference(load_rgb(path).resize((50, 37)), small.resize((50, 37))) < 3


# Sources and names.


def test_bytes_are_a_source(tmp_path):
    path = saved(tmp_path / "a.jpg", photo(50, 40, seed=11), exif=oriented(6))
    np.testing.assert_array_equal(pixels(path.read_bytes()), pixels(path))
    np.testing.assert_array_equal(pixels(str(path)), pixels(path))
    with pytest.raises(ImageError, match=r"^image: "):
        load_rgb(b"nothing")
    with pytest.raises(ImageError, match=r"^image: "):
        load_rgb(b"")


def test_the_content_counts_not_the_suffix(tmp_path):
    path = saved(tmp_path / "really_a_png.jpg", Image.fromarray(colours()), format="PNG")
    np.testing.assert_array_equal(pixels(path), colours())


@pytest.mark.parametrize("name", ["a.jpg", "a.JPG", "a.jpeg", "a.b.PNG", "a.HEIC", "a.avif", "a.webp", "a.tiff"])
def test_is_image_by_suffix(name):
    assert is_image(name)


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.json", "a.jpg.txt", "a.pdf", "a.mp4", "a.svg", "gone"])
def test_is_no_image_by_suffix(name):
    assert not is_image(name)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000", "HEIF", "AVIF"])
def test_is_image_by_first_bytes(tmp_path, form):
    pillow_heif.register_heif_opener()
    path = tmp_path / "n02084071_1"
    buffer = io.BytesIO()
    photo(64, 48, seed=12).save(buffer, form)
    path.write_bytes(buffer.getvalue())
    assert is_image(path)
    assert load_rgb(path).size == (64, 48)


@pytest.mark.parametrize("data", [b"", b"README", b"RIFF\0\0\0\0WAVEfmt ", b"\0\0\0\x18ftypmp42"])
def test_is_no_image_by_first_bytes(tmp_path, data):
    assert not is_image(cut(tmp_path / "LICENSE", data))


def test_files_are_closed(tmp_path):
    path = saved(tmp_path / "a.png", photo(40, 30, seed=13))
    bad = cut(tmp_path / "b.png", path.read_bytes()[:100])
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    kept = [load_rgb(path) for _ in range(20)]
    reasons = [unreadable_reason(bad) for _ in range(20)]
    after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert len(kept) == len(reasons) == 20
    assert after == before
