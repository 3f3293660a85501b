"""Pixels, errors and sizes of every kind of image file, held against Pillow's own decoding or known values."""

from __future__ import annotations

import io
import os
import struct
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms, ImageOps

from imgcls.data import decoding
from imgcls.errors import ImageError

ROOT = os.geteuid() == 0


def photo(width=96, height=64, seed=0):
    """Smooth noise, so that lossy formats stay close to it and no flip or turn looks like another."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)


def encode(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def unreadable_reason(source):
    """Why an image cannot be decoded, as the audit reports it; None if it can."""
    try:
        with decoding.open_image(source) as image:
            decoding.to_rgb(image, at_least=(1, 1))
    except ImageError as error:
        return decoding.short_reason(error)
    return None


def array(image):
    return np.asarray(image).astype(int)


def distance(a, b):
    return np.abs(array(a) - array(b)).mean()


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def pipeline(source):
    """What transformers' `load_image` does."""
    return ImageOps.exif_transpose(Image.open(source)).convert("RGB")


# --- which files are images


@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG", "b.Heic", "c.d.webp", "[1] é'*.png", "x.jp2", "y.pnm"])
def test_is_image_by_suffix(name):
    assert decoding.is_image(name)


@pytest.mark.parametrize("name", ["a.txt", "a.pdf", "a.svg", "a.eps", "a.jpg.part", "none"])
def test_is_image_refuses_other_suffixes(name):
    assert not decoding.is_image(name)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "AVIF", "HEIF", "PPM", "JPEG2000"])
def test_is_image_without_suffix_goes_by_first_bytes(tmp_path, format):
    pillow_heif.register_heif_opener()
    path = tmp_path / "0123abcd"
    path.write_bytes(encode(photo(), format))
    assert decoding.is_image(path)
    assert decoding.load_rgb(path).size == (96, 64)


def test_is_image_without_suffix_refuses_other_things(tmp_path):
    (tmp_path / "text").write_text("Bear with me: no image")
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    assert not any(decoding.is_image(tmp_path / name) for name in ("text", "empty", "folder", "pipe", "missing"))


@pytest.mark.skipif(ROOT, reason="root may read everything")
def test_is_image_refuses_an_unreadable_file_without_suffix(tmp_path):
    path = tmp_path / "secret"
    path.write_bytes(encode(photo(), "PNG"))
    path.chmod(0)
    assert not decoding.is_image(path)


def test_is_image_is_false_on_an_os_error(tmp_path, monkeypatch):
    path = tmp_path / "secret"
    path.write_bytes(encode(photo(), "PNG"))

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    assert not decoding.is_image(path)


# --- pixels


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("JPEG", {"quality": 90}),
        ("JPEG", {"quality": 90, "progressive": True}),
        ("JPEG", {"quality": 90, "subsampling": 2, "exif": exif(6)}),
        ("PNG", {}),
        ("PNG", {"exif": exif(8)}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"quality": 80, "exif": exif(3)}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("BMP", {}),
        ("PPM", {}),
        ("TGA", {}),
        ("PCX", {}),
        ("JPEG2000", {}),
        ("AVIF", {}),
        ("AVIF", {"exif": exif(6)}),
    ],
)
def test_load_rgb_is_identical_to_the_pipeline(format, options):
    data = encode(photo(), format, **options)
    result = decoding.load_rgb(data)
    assert result.mode == "RGB"
    assert np.array_equal(result, pipeline(io.BytesIO(data)))


@pytest.mark.parametrize(
    ("mode", "format", "error"),
    [
        ("L", "PNG", 60),
        ("1", "PNG", 128),
        ("P", "PNG", 30),
        ("CMYK", "TIFF", 1),
        ("YCbCr", "TIFF", 2),
        ("LAB", "TIFF", 8),
    ],
)
def test_to_rgb_modes_without_transparency_equal_the_pipeline(mode, format, error):
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.applyTransform(photo(), ImageCms.buildTransform(*profiles, "RGB", "LAB"))
    else:
        image = photo().convert(mode)
    # Pillow opens compressed YCbCr as RGB, and 12.3 cannot read what it writes of it uncompressed
    data = encode(image, format, **({"compression": "tiff_lzw"} if mode == "YCbCr" else {}))
    assert decoding.open_image(data).mode == (mode if mode != "YCbCr" else "RGB")
    assert np.array_equal(decoding.load_rgb(data), pipeline(io.BytesIO(data)))
    assert distance(decoding.load_rgb(data), photo()) < error


def test_to_rgb_converts_hsv():
    assert distance(decoding.to_rgb(photo().convert("HSV")), photo()) < 3


def test_to_rgb_cmyk_jpeg_is_not_inverted():
    """Adobe writes CMYK inverted and says so in a marker, which Pillow's writer does too."""
    data = encode(photo().convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in data
    assert distance(decoding.load_rgb(data), photo()) < 4
    assert distance(decoding.to_rgb(decoding.open_image(data), (12, 8)), photo().reduce(8)) < 8


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "RGBa"])
def test_to_rgb_alpha_lies_on_white(mode):
    alpha = Image.fromarray(np.linspace(0, 255, 96 * 64).reshape(64, 96).astype(np.uint8))
    image = photo().quantize(64).convert("PA") if mode == "PA" else photo().convert("LA" if mode == "LA" else "RGB")
    color = image.convert("RGB")
    image.putalpha(alpha)
    image = image.convert(mode)
    share = array(alpha)[..., None] / 255
    expected = array(color) * share + 255 * (1 - share)
    assert np.abs(array(decoding.to_rgb(image)) - expected).max() <= (3 if mode == "RGBa" else 1)


@pytest.mark.parametrize("transparency", [1, b"\xff\x00"], ids=["one colour", "bytes"])
def test_to_rgb_palette_transparency_lies_on_white(transparency):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 0, 0])
    image.putdata([0, 1])
    result = decoding.load_rgb(encode(image, "PNG", transparency=transparency))
    assert array(result).tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_to_rgb_palette_with_partial_transparency():
    image = Image.new("P", (1, 1))
    image.putpalette([0, 100, 200])
    result = decoding.load_rgb(encode(image, "PNG", transparency=b"\x80"))
    assert np.abs(array(result) - [[[127, 177, 227]]]).max() <= 1


@pytest.mark.parametrize(("mode", "colour"), [("L", 7), ("RGB", (7, 8, 9))])
def test_to_rgb_colour_key_lies_on_white(mode, colour):
    image = Image.new(mode, (2, 1), colour)
    image.putpixel((1, 0), 100 if mode == "L" else (100, 100, 100))
    result = decoding.load_rgb(encode(image, "PNG", transparency=colour))
    assert array(result).tolist() == [[[255] * 3, [100] * 3]]


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B"])
def test_to_rgb_16_bit_is_scaled_not_clipped(mode):
    image = Image.frombytes(mode, (4, 1), struct.pack(">4H" if mode == "I;16B" else "<4H", 0, 257, 32896, 65535))
    assert array(decoding.to_rgb(image))[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("format", ["PNG", "TIFF", "JPEG2000"])
def test_to_rgb_16_bit_files(format):
    values = np.linspace(0, 65535, 96 * 64).round().reshape(64, 96).astype(np.uint16)
    result = array(decoding.load_rgb(encode(Image.fromarray(values), format)))
    assert np.abs(result - (values / 257)[..., None]).max() <= (1 if format == "JPEG2000" else 0.5)


def big_endian_tiff(values):
    """A TIFF of one row in I;16B, which Pillow reads but does not write."""
    offset = 8 + 2 + 12 * 8 + 4
    tags = {256: len(values), 257: 1, 258: 16, 259: 1, 262: 1, 273: offset, 277: 1, 279: 2 * len(values)}
    entries = b"".join(struct.pack(">HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items())
    header = b"MM\0*" + struct.pack(">IH", 8, len(tags)) + entries + bytes(4)
    return header + struct.pack(f">{len(values)}H", *values)


def test_to_rgb_16_bit_pgm_and_big_endian_tiff():
    values = 0, 32896, 65535
    for data in (b"P5 3 1 65535\n" + struct.pack(">3H", *values), big_endian_tiff(values)):
        assert array(decoding.load_rgb(data))[0, :, 1].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 100, 255], [0, 100, 255]),
        ([-5, 0, 200], [0, 0, 200]),
        ([0, 32896, 65535], [0, 128, 255]),
        ([0, 257, 300], [0, 1, 1]),
        ([0, 50000, 100000], [0, 128, 255]),
    ],
)
def test_to_rgb_mode_i(values, expected):
    data = encode(Image.fromarray(np.array([values], np.int32)), "TIFF")
    assert decoding.open_image(data).mode == "I"
    assert array(decoding.load_rgb(data))[0, :, 2].tolist() == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 0.5, 1], [0, 128, 255]),
        ([0.25, 0.25, 0.25], [64, 64, 64]),
        ([-1, 0, 1], [0, 128, 255]),
        ([100, 150, 200], [0, 128, 255]),
        ([7, 7, 7], [0, 0, 0]),
        ([np.nan, 0.5, 1], [0, 128, 255]),
    ],
)
def test_to_rgb_mode_f(values, expected):
    data = encode(Image.fromarray(np.array([values], np.float32)), "TIFF")
    assert array(decoding.load_rgb(data))[0, :, 0].tolist() == expected


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_to_rgb_first_frame_of_several(tmp_path, format):
    path = tmp_path / f"a.{format.lower()}"
    frames = [photo(seed=seed) for seed in range(3)]
    frames[0].save(path, format, save_all=True, append_images=frames[1:])
    result = decoding.load_rgb(path)
    assert getattr(decoding.open_image(path.read_bytes()), "n_frames", 1) == 3
    assert distance(result, frames[0]) < 12 < distance(result, frames[1])


def test_to_rgb_heic_is_read_and_turned_once(tmp_path):
    pillow_heif.register_heif_opener()
    path = tmp_path / "phone.HEIC"
    image = photo()
    image.info["exif"] = exif(6).tobytes()  # written as a phone does, as EXIF and as the container's own turn
    path.write_bytes(encode(image, "HEIF", quality=95))
    with decoding.open_image(path) as image:
        assert decoding.displayed_size(image) == (64, 96)
        assert distance(decoding.to_rgb(image), photo().transpose(Image.ROTATE_270)) < 6


def test_to_rgb_avif_suffix(tmp_path):
    photo().save(tmp_path / "a.avif", quality=95)
    assert distance(decoding.load_rgb(str(tmp_path / "a.avif")), photo()) < 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_to_rgb_orientation(format, orientation):
    data = encode(photo(), format, exif=exif(orientation))
    turned = photo()
    turned.getexif()[0x0112] = orientation
    turned = ImageOps.exif_transpose(turned)
    with decoding.open_image(data) as image:
        assert decoding.displayed_size(image) == turned.size
        result = decoding.to_rgb(image)
    assert distance(result, turned) < 6
    assert result.getexif().get(0x0112) is None
    assert np.array_equal(ImageOps.exif_transpose(result), result)


def test_to_rgb_orientation_behind_the_pixels_of_a_png():
    data = encode(photo(), "PNG")
    body = b"eXIf" + exif(6).tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    with decoding.open_image(data[:-12] + chunk + data[-12:]) as image:
        assert decoding.displayed_size(image) == (64, 96)
        assert np.array_equal(decoding.to_rgb(image), photo().transpose(Image.ROTATE_270))


def test_to_rgb_16_bit_is_turned_too():
    values = np.arange(6, dtype=np.uint16).reshape(2, 3) * 257
    result = decoding.load_rgb(encode(Image.fromarray(values), "PNG", exif=exif(3)))
    assert array(result)[..., 0].tolist() == [[5, 4, 3], [2, 1, 0]]


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_to_rgb_orientation_out_of_range_is_none(orientation):
    data = encode(photo(), "PNG", exif=exif(orientation))
    assert np.array_equal(decoding.load_rgb(data), photo())


@pytest.mark.parametrize(
    "payload", [b"Exif\0\0garbage!", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0MM\0*\0\0\0\x08\0\x02\x01"]
)
def test_to_rgb_broken_exif_leaves_the_image_readable(payload):
    data = encode(photo(), "JPEG", exif=payload)
    assert decoding.load_rgb(data).size == (96, 64)
    assert unreadable_reason(data) is None


def test_to_rgb_result_is_a_copy_that_outlives_the_file(tmp_path):
    photo().save(tmp_path / "a.png")
    with decoding.open_image(tmp_path / "a.png") as image:
        result = decoding.to_rgb(image)
        image.putpixel((0, 0), (1, 2, 3))
    (tmp_path / "a.png").unlink()
    assert np.array_equal(result, photo())
    assert result.info == {}


# --- reduced scale


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(
    ("at_least", "size"),
    [
        ((801, 601), (801, 601)),
        ((5000, 1), (801, 601)),
        ((500, 10), (801, 601)),
        ((400, 300), (401, 301)),
        ((401, 301), (801, 601)),
        ((200.0, 100.5), (201, 151)),
        ((0.2, 0.2), (101, 76)),
    ],
)
def test_to_rgb_jpeg_is_decoded_at_the_smallest_scale_that_covers(mode, at_least, size):
    data = encode(photo(801, 601).convert(mode), "JPEG", quality=95)
    full = decoding.load_rgb(data)
    with decoding.open_image(data) as image:
        result = decoding.to_rgb(image, at_least)
    assert result.size == size
    assert all(got >= min(wanted, had) for got, wanted, had in zip(size, at_least, full.size, strict=True))
    assert distance(result, full.reduce(round(801 / size[0]))) < 2


def test_to_rgb_at_least_is_meant_as_displayed():
    data = encode(photo(800, 400), "JPEG", exif=exif(6), quality=95)
    with decoding.open_image(data) as image:
        assert decoding.displayed_size(image) == (400, 800)
        assert decoding.to_rgb(image, (100, 400)).size == (200, 400)
    with decoding.open_image(data) as image:
        assert decoding.to_rgb(image, (200, 100)).size == (200, 400)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_to_rgb_other_formats_are_decoded_in_full(format):
    data = encode(photo(), format)
    assert decoding.to_rgb(decoding.open_image(data), (8, 8)).size == (96, 64)


# --- what cannot be read


@pytest.mark.parametrize("share", [0.5, 0.95])
@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {}),
        ("GIF", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("BMP", {}),
        ("AVIF", {}),
        ("HEIF", {}),
        ("JPEG2000", {}),
    ],
)
def test_to_rgb_refuses_truncated_files(tmp_path, format, options, share):
    pillow_heif.register_heif_opener()
    data = encode(photo(320, 240), format, **options)
    data = data[: int(len(data) * share)]
    path = tmp_path / "cut.bin"
    path.write_bytes(data)
    for source in (path, data):
        with pytest.raises(ImageError, match=r"cut\.bin" if source is path else "one in memory"):
            decoding.load_rgb(source)
        reason = unreadable_reason(source)
        assert reason
        assert "cut.bin" not in reason


@pytest.mark.parametrize("size", [(500, 400), (1999, 1501)])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("lost", [2, 3, 20, 500])
def test_to_rgb_at_an_eighth_finds_the_same_errors(size, progressive, lost):
    data = encode(photo(*size), "JPEG", quality=88, progressive=progressive)
    assert unreadable_reason(data) is None
    with pytest.raises(ImageError, match="truncated"):
        decoding.load_rgb(data[:-lost])
    assert "truncated" in unreadable_reason(data[:-lost])


def test_to_rgb_raises_image_error_for_broken_data_of_every_kind():
    """Flipped bytes make decoders raise nearly anything; all of it must come as ImageError or as pixels."""
    rng = np.random.default_rng(1)
    pillow_heif.register_heif_opener()
    failed = 0
    for format in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "HEIF", "PPM", "TGA", "PCX", "ICO"):
        good = np.frombuffer(encode(photo(48, 48), format), np.uint8)
        for _ in range(25):
            bad = good.copy()
            at = rng.integers(0, min(len(bad), 400), 4)
            bad[at] = rng.integers(0, 256, 4)
            reason = unreadable_reason(bad.tobytes())
            failed += reason is not None
            assert reason is None or 0 < len(reason) <= 100
    assert failed > 20


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty"), (b"not an image at all", "not an image"), (b"%!PS-Adobe-3.0 EPSF", "not an")],
)
def test_open_image_refuses_what_is_not_an_image(tmp_path, content, reason):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=rf"a\.jpg: .*{reason}"):
        decoding.open_image(path)
    assert reason in unreadable_reason(path)
    assert reason in unreadable_reason(content)


def test_open_image_refuses_missing_files_and_folders(tmp_path):
    with pytest.raises(ImageError, match=r"gone\.png: No such file"):
        decoding.open_image(tmp_path / "gone.png")
    with pytest.raises(ImageError, match="directory"):
        decoding.open_image(str(tmp_path))


@pytest.mark.skipif(ROOT, reason="root may read everything")
def test_open_image_refuses_a_file_without_permission(tmp_path):
    path = tmp_path / "a.png"
    photo().save(path)
    path.chmod(0)
    assert unreadable_reason(path) == "Permission denied"


def test_open_image_reports_permission_errors(monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", "/data/a.png")

    monkeypatch.setattr(decoding.Image, "open", refuse)
    assert unreadable_reason("/data/a.png") == "Permission denied"


def test_open_image_refuses_a_decompression_bomb(monkeypatch):
    data = encode(photo(), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 96 * 64 - 1)
    assert decoding.load_rgb(data).size == (96, 64)  # above the limit, below twice of it
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 96 * 64 // 2 - 1)
    with pytest.raises(ImageError, match="more pixels"):
        decoding.open_image(data)


def test_to_rgb_accepts_a_good_image(tmp_path):
    photo().save(tmp_path / "a.jpg")
    assert unreadable_reason(tmp_path / "a.jpg") is None


# --- warnings and threads


def test_load_rgb_ignores_decoder_warnings_in_threads_and_no_others():
    noisy = encode(photo(), "TIFF")[:-2]  # warns "Corrupt EXIF data"
    clear = threading.Event()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ThreadPoolExecutor(8) as pool:
            reasons = list(pool.map(unreadable_reason, [noisy, encode(photo(), "JPEG")] * 100))
        with pytest.raises(UserWarning, match="mine"):
            warnings.warn("mine", UserWarning, stacklevel=1)
        clear.set()
    assert clear.is_set()
    assert sum(r is None for r in reasons) in (100, 200)


def test_load_rgb_adds_one_warning_filter_only():
    decoding.load_rgb(encode(photo(), "PNG"))
    before = list(warnings.filters)
    for _ in range(5):
        decoding.load_rgb(encode(photo(), "PNG"))
    assert list(warnings.filters) == before


def test_load_rgb_closes_the_file(tmp_path):
    frames = [photo(seed=seed) for seed in range(2)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "b.png").write_bytes(encode(photo(), "PNG")[:500])
    before = len(os.listdir("/proc/self/fd"))
    decoding.load_rgb(tmp_path / "a.gif")
    unreadable_reason(tmp_path / "b.png")
    assert len(os.listdir("/proc/self/fd")) == before
