"""Decodes image files to RGB pixels: orientation, modes, 16 bits, reduced-scale decoding."""

from __future__ import annotations

import functools
import importlib.util
import io
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from imgcls.errors import ImageError, one_line

_HAS_JXL = importlib.util.find_spec("pillow_jxl") is not None  # an extra: pip install pillow-jxl-plugin

SUFFIXES = frozenset((
    *((".jxl",) if _HAS_JXL else ()),
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff", ".avif",
    ".heic", ".heif", ".hif", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".ico", ".tga", ".pcx",
))  # fmt: skip

# Listed, because Pillow otherwise goes by content alone: an EPS called photo.png would start Ghostscript. Common
# formats come first; TGA has no signature, so it comes last. JPEG includes MPO, which phones write.
_FORMATS = (
    "JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "AVIF", "HEIF", "JPEG2000", "DIB", "ICO", "PCX", "TGA",
    *(("JXL",) if _HAS_JXL else ()),
)  # fmt: skip

# Fraction of the requested pixels that a scaled decode may have: with 375 of 384, a 12 MP photo need not be decoded at
# four times as many pixels.
SCALED_DECODE_MARGIN = 0.97

# First bytes of a file of each format, from the specifications; a dot is any byte.
_MAGIC = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|BM|RIFF....WEBP|II[*+]\0|MM\0[*+]|P[1-6]\s"
    rb"|....ftyp(avi[fs]|hei[cxms]|hev[cmsx]|mif1|msf1)|\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    re.DOTALL,
)

# EXIF orientation -> transposition that turns the stored pixels upright; 1 is upright. Source: EXIF 2.32, tag 0x0112.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)  # those that swap width and height

# Reasons of images that are refused for their size.
MORE_PIXELS, LARGER_FILE = TOO_LARGE = "more pixels than any photo has", "a file larger than any photo"

_DECODERS = re.compile(r"(PIL|pillow_heif)\.")


def is_image(path: str | Path) -> bool:
    """Whether a file counts as an image: by its suffix or, without one, by its first bytes.

    Only files without a suffix are opened; one that cannot be read or is not a regular file is not an image.
    """
    suffix = os.path.splitext(path)[1]
    if suffix:
        return suffix.lower() in SUFFIXES
    try:
        if not os.path.isfile(path):  # opening a pipe would block
            return False
        with open(path, "rb") as file:
            return _MAGIC.match(file.read(16)) is not None
    except OSError:
        return False


def open_image(source: str | Path | bytes) -> Image.Image:
    """The image with its header read and its pixels still on disk; use it in `with`, or close it.

    source: a path or the encoded bytes. Raises ImageError if it is missing, empty, not readable, not an
    image, or above Pillow's limit of 179 million px.
    """
    _register_plugins()
    with _decoding(source):
        try:
            return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_FORMATS)
        except Image.UnidentifiedImageError:
            size = len(source) if isinstance(source, bytes) else os.path.getsize(source)
            raise ValueError("not an image" if size else "the file is empty") from None


def displayed_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) in px after EXIF orientation, from the header; not valid after `to_rgb`.

    A PNG without EXIF in its header is decoded, because the chunk may also follow the pixels; the image keeps the
    decoded pixels, so `to_rgb` does not decode it again. Raises ImageError like `to_rgb`.
    """
    with _decoding(image):
        if image.format == "PNG" and "exif" not in image.info:
            image.load()
        # Pillow already returns the displayed size of a TIFF
        swapped = image.format != "TIFF" and orientation_of(exif_of(image)) in _SIDEWAYS
        width, height = image.size
        return (height, width) if swapped else (width, height)


def to_rgb(image: Image.Image, at_least: tuple[float, float] | None = None) -> Image.Image:
    """All pixels, upright, as RGB: transparency on white, the first frame of several, 16 bits scaled to 8.

    at_least: (width, height) in px, displayed; a JPEG is then decoded at the smallest of the scales 1/1, 1/2, 1/4 and
    1/8 that is not smaller in either, other formats in full. The result is a copy without metadata, so that nothing
    turns it a second time. Pixels equal `ImageOps.exif_transpose(image).convert("RGB")`, as in transformers' pipeline,
    except where that loses content (16 bits, transparency). Raises ImageError for truncated or broken data.
    """
    with _decoding(image):
        if at_least and image.format in ("JPEG", "MPO"):
            width, height = at_least[::-1] if orientation_of(exif_of(image)) in _SIDEWAYS else at_least
            # without a mode only the scale changes; Pillow also takes floats
            image.draft(None, (max(1, width), max(1, height)))  # pyright: ignore[reportArgumentType]
        image.load()
        turn = _TURNS.get(orientation_of(exif_of(image)))
        pixels = _rgb_as_stored(image)
        if turn is not None:
            pixels = pixels.transpose(turn)
        elif pixels is image:
            pixels = image.copy()
        pixels.info = {}
        return pixels


def load_shrunk(source: str | Path | bytes, short_px: int, eighth: np.ndarray | None = None) -> Image.Image:
    """As `load_rgb`, shrunk if its shorter side has more than short_px; depends on the file alone.

    A JPEG is decoded at the smallest scale with at least SCALED_DECODE_MARGIN of the pixels, so its shorter side may be
    slightly below short_px. eighth: the photo as decoded at 1/8, uint8 (rows, columns, 3); used instead of the file if
    it is large enough. Raises ImageError.
    """
    with open_image(source) as image:
        size = displayed_size(image)
        scale = min(1.0, short_px / min(size))
        least = scale * SCALED_DECODE_MARGIN
        if eighth is not None and least <= 1 / 8:  # to_rgb would decode the same
            pixels = Image.fromarray(eighth)
        else:
            pixels = to_rgb(image, (size[0] * least, size[1] * least) if scale < 1 else None)
    if min(pixels.size) <= short_px:
        return pixels
    return pixels.resize([max(1, round(side * scale)) for side in size], Image.Resampling.BILINEAR)


def load_rgb(source: str | Path | bytes) -> Image.Image:
    """RGB pixels of a file or of encoded bytes, see `to_rgb`. Raises ImageError."""
    with open_image(source) as image:
        return to_rgb(image)


def short_reason(error: ImageError) -> str:
    """Why an image cannot be read, without its path and the advice."""
    return _reason(error.__cause__)


def exif_of(image: Image.Image) -> Image.Exif:
    """The image's EXIF; empty if there is none or it cannot be parsed."""
    try:
        return image.getexif()
    except Exception:  # SyntaxError, struct.error, ...: broken EXIF; the pixels are readable, and viewers show them
        return Image.Exif()


def orientation_of(exif: Image.Exif) -> int:
    """EXIF orientation, 1 to 8; 1 if the tag is missing or out of range."""
    try:
        orientation = exif.get(ExifTags.Base.Orientation)
    except Exception:  # as above: parsed on first use
        return 1
    return orientation if orientation in _TURNS else 1


@functools.cache
def _register_plugins() -> None:
    from pillow_heif import register_heif_opener  # takes 30 ms to import

    register_heif_opener()
    if _HAS_JXL:
        importlib.import_module("pillow_jxl")  # registers itself


@contextmanager
def _decoding(source: str | Path | bytes | Image.Image) -> Iterator[None]:
    """Turns exceptions of decoders into ImageError with the file's name, and ignores their warnings.

    `warnings.catch_warnings` is not thread-safe: it replaces the filters of the whole process. So one filter for
    Pillow's own modules is inserted first and stays.
    """
    if not warnings.filters or warnings.filters[0][2] != _DECODERS:
        warnings.filterwarnings("ignore", module=_DECODERS.pattern)
    try:
        yield
    except Exception as error:  # broken files raise SyntaxError, struct.error, MemoryError, almost anything
        name = getattr(source, "filename", "") if isinstance(source, Image.Image) else source
        path = "one in memory" if not name or isinstance(name, bytes) else name
        raise ImageError(
            f"Expected a readable image, got {path}: {_reason(error)}. Replace the file or take it out."
        ) from error


def _reason(error: BaseException | None) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return MORE_PIXELS
    text = getattr(error, "strerror", None) or str(error).split(" (")[0]  # "(59 bytes not processed)"
    return one_line(text, limit=100) or type(error).__name__


def _rgb_as_stored(image: Image.Image) -> Image.Image:
    """Decoded pixels of any mode as RGB, not turned; the image itself if it is RGB."""
    if image.mode.startswith("I") or image.mode == "F":
        return _wide_to_gray(image).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGB", layer.size, "white")
        white.paste(layer, mask=layer)
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def _wide_to_gray(image: Image.Image) -> Image.Image:
    """One channel in mode I;16, I;16B, I;16L, I or F -> mode L, scaled instead of clipped as Pillow does.

    I;16*: 65535 is white. I: 255 is white if no value is above, else 65535, else the largest value. F: 1 is white
    if all lie in 0..1, else the least value is black and the largest white. NaN and infinities count as 0.
    """
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    black, white = float(values.min()), float(values.max())
    if image.mode == "F":
        black, white = (0.0, 1.0) if black >= 0 and white <= 1 else (black, white)
    elif image.mode == "I" and white <= 255:
        black, white = 0.0, 255.0
    else:
        black, white = 0.0, max(white, 65535.0)
    scaled = (values - black) * 255 / ((white - black) or 1.0)
    return Image.fromarray(scaled.round().clip(0, 255).astype(np.uint8))
