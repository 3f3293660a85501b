"""One read and one shrunk decode of an image file -> what is known of it: header, pixels, a thumbnail.

Everything later (duplicates, splits, findings, the page's histograms) works on these records alone, so a file is read
once. Darkness, brightness and entropy are the scores that cleanvision publishes, on our own shrunk decode.
"""

from __future__ import annotations

import calendar
import hashlib
import os
import time
from collections.abc import Callable, Sequence

import numpy as np
from PIL import ExifTags, Image
from scipy.ndimage import uniform_filter

from imgcls.data import decoding
from imgcls.errors import ImageError

THUMB_PX, COLOUR_PX = 32, 4  # of the gray thumbnail and of the colours by which copies are recognised
STATISTICS_PX = 64  # side of the square on which pictures are scored
MOST_BYTES = 600_000_000  # Pillow's limit of 179 million px takes 537 MB uncompressed: nothing larger is a photo
VERSION = 2  # of a record: kept ones of another version are made anew

RECORD = np.dtype([
    ("width", "u4"), ("height", "u4"),  # px, displayed
    ("orientation", "u1"),  # EXIF, 1 to 8
    ("format", "S8"), ("mode", "S6"),  # Pillow's names, as stored
    ("alpha", "?"),  # transparency
    ("file_bytes", "u8"),
    ("digest", "u8", 2),  # of the file's bytes
    ("taken", "i8"),  # EXIF DateTimeOriginal in seconds, 0: unknown
    ("dark", "f4"), ("bright", "f4"),  # 99th and 5th percentile of brightness, 0..1
    ("entropy", "f4"),  # bits
    ("sharpness", "f4"),  # finest detail over all detail
    ("chroma", "f4"),  # largest difference of colour channels, 0..255: 0 is gray
    ("border", "f4"),  # share of the area in borders of one colour
    ("thumb", "u1", (THUMB_PX, THUMB_PX)),  # gray, squashed to a square
    ("colour", "u1", (COLOUR_PX, COLOUR_PX, 3)),  # mean of each sixteenth
])  # fmt: skip


def inspect_images(
    sources: Sequence[str | bytes], seen: Callable[[int, Image.Image, tuple[int, int]], None] | None = None
) -> tuple[np.ndarray, list[str | None]]:
    """Records of some images, and the reason why each cannot be decoded (None: it can).

    seen: told the place of each image that can, its pixels as they were decoded, and its own width and height.

    Returns RECORD (N,), all zeros where there is a reason, and N reasons. Pillow lets go of the GIL: ask from several
    threads, some dozen images at a time.
    """
    records = np.zeros(len(sources), RECORD)
    reasons: list[str | None] = []
    squares = np.zeros((len(sources), STATISTICS_PX, STATISTICS_PX, 3), np.uint8)
    for i, source in enumerate(sources):
        try:
            pixels = _read(source, records[i])
        except ImageError as error:
            records[i] = np.zeros((), RECORD)
            reasons.append(decoding.short_reason(error))
            continue
        squares[i] = np.asarray(pixels.resize((STATISTICS_PX, STATISTICS_PX), Image.Resampling.BOX))
        reasons.append(None)
        if seen is not None:
            seen(i, pixels, (int(records["width"][i]), int(records["height"][i])))
    sound = [i for i, reason in enumerate(reasons) if reason is None]
    if sound:
        _score(squares[sound], records, sound)
    return records, reasons


def _read(source: str | bytes, record: np.void) -> Image.Image:
    """Fill in what one file says of itself; its pixels, STATISTICS_PX at least either way."""
    encoded = source if isinstance(source, bytes) else _bytes_of(source)
    with decoding.open_image(encoded if encoded else source) as image:
        exif = decoding.exif_of(image)
        record["format"], record["mode"] = image.format.encode(), image.mode.encode()[:6]
        record["alpha"] = image.has_transparency_data
        record["orientation"] = decoding.orientation_of(exif)
        record["taken"] = _taken(exif)
        record["width"], record["height"] = decoding.displayed_size(image)
        pixels = decoding.to_rgb(image, at_least=(STATISTICS_PX, STATISTICS_PX))
    record["file_bytes"] = len(encoded)
    record["digest"] = np.frombuffer(hashlib.blake2b(encoded, digest_size=16).digest(), "u8")
    return pixels


def _bytes_of(path: str) -> bytes:
    try:
        if os.path.getsize(path) > MOST_BYTES:
            raise ImageError(path) from ValueError(decoding.LARGER_FILE)
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ImageError(path) from error


def _taken(exif: Image.Exif) -> int:
    """Seconds of DateTimeOriginal, in the camera's own time zone; 0 where it is missing or misshapen."""
    try:
        text = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.DateTimeOriginal)
        return calendar.timegm(time.strptime(str(text)[:19], "%Y:%m:%d %H:%M:%S")) if text else 0
    except Exception:  # broken EXIF raises almost anything; the pixels are good
        return 0


def _score(squares: np.ndarray, records: np.ndarray, at: list[int]) -> None:
    """Set the scores of the records at some positions; squares: uint8 (N, 64, 64, 3) of these."""
    # planes, since NumPy is ten times slower over a last axis of three
    planes = np.ascontiguousarray(squares.transpose(3, 0, 1, 2))
    red, green, blue = planes.astype(np.float32)
    brightness = np.sqrt(0.241 * red**2 + 0.691 * green**2 + 0.068 * blue**2).reshape(len(squares), -1) / 255
    low, high = np.percentile(brightness, [5, 99], axis=1)
    gray = 0.299 * red + 0.587 * green + 0.114 * blue
    whole = gray.round().astype(np.uint8)
    half = STATISTICS_PX // THUMB_PX
    found = {
        "dark": high,
        "bright": low,
        "entropy": _entropy(planes),
        "sharpness": _sharpness(gray),
        "chroma": (planes.max(0) - planes.min(0)).reshape(len(squares), -1).max(1),
        "border": np.maximum(_bars(whole), _bars(np.ascontiguousarray(whole.transpose(0, 2, 1)))),
        "thumb": (sum(gray[:, y::half, x::half] for y in range(half) for x in range(half)) / half**2).round(),
    }
    part = STATISTICS_PX // COLOUR_PX
    found["colour"] = squares.reshape(-1, COLOUR_PX, part, COLOUR_PX, part, 3).mean((2, 4)).round()
    for name, values in found.items():
        records[name][at] = values


def _histograms(values: np.ndarray) -> np.ndarray:
    """uint8 (N, ...) -> counts (N, 256)."""
    flat = values.reshape(len(values), -1) + 256 * np.arange(len(values))[:, None]
    return np.bincount(flat.ravel(), minlength=256 * len(values)).reshape(len(values), 256)


def _entropy(planes: np.ndarray) -> np.ndarray:
    """Bits of each picture's histogram over all three channels, as Pillow's `Image.entropy` counts it."""
    counts = np.concatenate([_histograms(plane) for plane in planes], axis=1)
    shares = counts / counts.sum(1, keepdims=True)
    return -(shares * np.log2(np.where(shares > 0, shares, 1))).sum(1)


def _sharpness(gray: np.ndarray) -> np.ndarray:
    """Finest detail over all detail: deviation of the Laplacian over that of what differs from its surroundings.

    So the contrast of a picture does not matter. float32 (N, 64, 64) -> (N,). Measured on photos of waste: sharp ones
    2.2 and more (five in a hundred below 3.1), blurred by 2.3 % of their shorter side at most 1.7. cleanvision's
    score, which compares edges as they are, called 43 of these 357 sharp photos blurred.
    """
    rows = gray[:, :-2] + gray[:, 1:-1] + gray[:, 2:]
    around = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    detail = gray - uniform_filter(gray, (0, 9, 9), mode="nearest")
    return (9 * gray[:, 1:-1, 1:-1] - around).std((1, 2)) / (detail.std((1, 2)) + 1)


def _bars(gray: np.ndarray) -> np.ndarray:
    """Share of lines in bars of one gray along the first and the last line, as letterboxes and padding leave them."""
    lines = gray.shape[1]
    least, most = gray.min(2).astype(np.int16), gray.max(2).astype(np.int16)
    flat = most - least <= 3  # JPEG leaves a level or two
    near = np.cumprod(flat & (np.abs(most - most[:, :1]) <= 3), 1).sum(1)
    far = np.cumprod((flat & (np.abs(most - most[:, -1:]) <= 3))[:, ::-1], 1).sum(1)
    return np.where((near > 0) & (far > 0), np.minimum(near + far, lines) / lines, 0)
