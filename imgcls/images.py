"""Any image file -> right RGB pixels: orientation, modes, 16 bit, reduced-scale decode."""

from __future__ import annotations

import functools
import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from imgcls.errors import ImageError

SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".bmp",
        ".dib",
        ".gif",
        ".webp",
        ".tif",
        ".tiff",
        ".avif",
        ".heic",
        ".heif",
        ".hif",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".jp2",
        ".j2k",
        ".ico",
        ".tga",
        ".pcx",
    ]
)
# First bytes of the common formats, for files without a suffix: JPEG, PNG, GIF, BMP, TIFF (two byte orders), JPEG 2000.
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ")
_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1")
_TURNED = {5, 6, 7, 8}  # EXIF orientations that swap width and height
_ORIENTATION = 0x0112


def is_image(path: str | Path) -> bool:
    """Whether a file counts as an image: by its suffix; without any suffix by its first bytes."""
    suffix = Path(path).suffix.lower()
    if suffix:
        return suffix in SUFFIXES
    try:
        with open(path, "rb") as file:
            head = file.read(16)
    except OSError:
        return False
    container = head[4:8] == b"ftyp" and head[8:12] in _BRANDS
    return head.startswith(_MAGIC) or container or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


@functools.cache
def _register_heif() -> None:
    from pillow_heif import register_heif_opener  # HEIC, HEIF; Pillow reads AVIF itself

    register_heif_opener()


def _name(source: str | Path | bytes) -> str:
    return "image" if isinstance(source, bytes) else str(source)


def _why(error: Exception) -> str:
    """A short reason without the path, for people."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image that can be read"
    if isinstance(error, Image.DecompressionBombError):
        return "too many pixels for an honest photo"
    if getattr(error, "strerror", None):
        return error.strerror.lower()
    text = " ".join(str(error).split())
    return "truncated or damaged: " + text[:100] if text else f"damaged ({type(error).__name__})"


def open_image(source: str | Path | bytes) -> Image.Image:
    """An image whose header is read and whose pixels are not; close it or use it in `with`.

    source: a path or the encoded bytes. Raises ImageError that names the file.
    """
    _register_heif()
    try:
        if not isinstance(source, bytes) and Path(source).stat().st_size == 0:
            raise ImageError(f"{source}: the file is empty")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged EXIF, large but honest pictures: not the user's concern
            image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
            image.info["imgcls_name"] = _name(source)
            return image
    except ImageError:
        raise
    except Exception as error:  # decoders raise whatever they like on damaged headers
        raise ImageError(f"{_name(source)}: {_why(error)}") from error


def _orientation(image: Image.Image) -> int:
    """EXIF orientation that Pillow leaves to us, 1 to 8; 1 when it is absent or damaged."""
    if image.format == "TIFF":
        return 1  # Pillow turns TIFFs itself while it loads them, and their size in the header is as seen
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return image.getexif().get(_ORIENTATION, 1)
        except Exception:  # damaged EXIF blocks raise SyntaxError, struct.error and more; the pixels are still good
            return 1


def displayed_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) in px as seen, that is after EXIF orientation; from the header alone."""
    width, height = image.size
    return (height, width) if _orientation(image) in _TURNED else (width, height)


def to_rgb(image: Image.Image, at_least: tuple[float, float] | None = None) -> Image.Image:
    """All pixels as RGB, turned upright; transparency on white, first frame of animations.

    at_least: (width, height) in px as displayed: a JPEG may then be decoded at the smallest scale that is still
    as large. 16 bit grayscale is scaled, not clipped. Raises ImageError for truncated or damaged data.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            turn = _orientation(image)
            if at_least is not None and image.format == "JPEG" and image.mode in ("RGB", "L"):
                width, height = at_least[::-1] if turn in _TURNED else at_least
                # draft takes whole pixels and may go to an eighth; a 1 px floor keeps it from a size of nothing
                image.draft(image.mode, (max(1, -int(-width // 1)), max(1, -int(-height // 1))))
            image.load()
            rgb = _rgb(image)
            if turn in range(2, 9):
                rgb.getexif()[_ORIENTATION] = turn
                rgb = ImageOps.exif_transpose(rgb)
            return rgb
    except Exception as error:  # decoders raise whatever they like on damaged data
        raise ImageError(f"{image.info.get('imgcls_name', 'image')}: {_why(error)}") from error


def _rgb(image: Image.Image) -> Image.Image:
    """Loaded pixels of any mode -> RGB, without orientation."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.copy()
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_8_bit(np.asarray(image), image.mode)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _to_8_bit(values: np.ndarray, mode: str) -> np.ndarray:
    """One channel in one of Pillow's wide modes -> uint8.

    I;16 is 16 bit. I holds 8 bit up to 255, 16 bit up to 65535, and above that its largest value becomes 255.
    F is 0..1, or else runs from its least to its largest value.
    """
    values = values.astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(low + high):
        raise ValueError("pixel values are not finite")
    if mode == "F" and not 0 <= low <= high <= 1:
        values, high = values - low, (high - low) or 1.0
    elif mode == "F":
        high = 1.0
    elif mode != "I" or 255 < high <= 65535:
        high = 65535.0
    else:
        high = max(high, 255.0)
    return (values.clip(0) * (255 / high)).round().astype(np.uint8)


def load_rgb(source: str | Path | bytes) -> Image.Image:
    """All pixels of a file or of encoded bytes as upright RGB. Raises ImageError that names the file."""
    with open_image(source) as image:
        return to_rgb(image)


def unreadable_reason(source: str | Path | bytes) -> str | None:
    """Why an image cannot be decoded to its last byte, without the path; None when it can.

    JPEGs are decoded at an eighth of their size: that still reads the whole data, so truncation shows, and takes
    a fraction of the time.
    """
    try:
        with open_image(source) as image:
            to_rgb(image, at_least=(1, 1))
    except ImageError as error:
        return str(error).removeprefix(f"{_name(source)}: ")
    return None
