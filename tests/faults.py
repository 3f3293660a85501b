"""A data folder with every fault that `scripts/check.py` knows, and the files that each is to be reported for.

    python tests/faults.py FOLDER

Draws FOLDER/pictures (class folders with faults among a hundred sound images), FOLDER/splits (train, validation and
test with leaks), FOLDER/shortcuts/0 ... (file properties predict a class) and FOLDER/sound/0 ... (they do not).
"""

from __future__ import annotations

import io
import os
import random
import shutil
import struct
import sys
import zlib
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from drawings import SHAPES, photo, shape
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

CLASSES = ("bird", "cat", "dog", "[1] a*b?", "été 🐸")
SOUND, COPIES = 100, 20  # images; of each kind of copy
SIZES = ((320, 240), (240, 320), (300, 300), (340, 220), (256, 192), (320, 200), (220, 280))  # 7: classes are 5

Expected = dict[str, set[str]]


def _jpeg(picture: Image.Image, quality: int = 90, **extra) -> bytes:
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality, **extra)
    return out.getvalue()


def _png(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def bomb(side: int = 50_000) -> bytes:
    """A PNG of 1-bit pixels, all zero, `side` px wide and high, some hundred bytes long when side is 50,000."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(side // 8 + 1))) + chunk(b"IEND", b"")


def cropped(picture: Image.Image, rng: random.Random, fraction: float = 0.06) -> Image.Image:
    """Cropped by up to this fraction at each side."""
    width, height = picture.size
    left, top, right, bottom = (rng.uniform(0.2, 1) * fraction for _ in range(4))
    return picture.crop((int(left * width), int(top * height), int((1 - right) * width), int((1 - bottom) * height)))


# Kind of copy -> how it is made of a picture.
COPY: dict[str, Callable[[Image.Image, random.Random], bytes]] = {
    "re-encoded": lambda picture, rng: _jpeg(picture, rng.randint(35, 70)),
    "resized": lambda picture, rng: _jpeg(ImageOps.scale(picture, rng.choice((0.5, 0.7, 1.6)))),
    "cropped": lambda picture, rng: _jpeg(cropped(picture, rng)),
    "brightened": lambda picture, rng: _jpeg(ImageEnhance.Brightness(picture).enhance(rng.uniform(1.15, 1.25))),
    "mirrored": lambda picture, rng: _jpeg(ImageOps.mirror(picture), 80),
}


class _Folder:
    """Files written below a root, with the issue codes that they are to be reported under."""

    def __init__(self, root: Path):
        self.root, self.expected, self.count = root, defaultdict(set), 0

    def picture(self, **size) -> Image.Image:
        """A new picture."""
        self.count += 1
        return photo(*size.get("size", SIZES[self.count % len(SIZES)]), seed=self.count)

    def put(self, path: str, content: bytes, *codes: str) -> str:
        """Write a file; returns its path."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        for code in codes:
            self.expected[code].add(path)
        return path

    def note(self, code: str, *paths: str) -> None:
        self.expected[code].update(paths)


def pictures(root: Path) -> tuple[Expected, dict[str, list[tuple[str, str]]]]:
    """Class folders with faults. Returns code -> paths, and kind of copy -> pairs of original and copy."""
    put = _Folder(root)
    rng = random.Random(0)
    for i in range(SOUND):
        put.put(f"{CLASSES[i % len(CLASSES)]}/sound{i:03}.jpg", _jpeg(put.picture()))
    _broken(put)
    _no_images(put)
    _classes(put)
    _odd(put)
    _poor(put)
    return put.expected, _copies(put, rng)


def _broken(put: _Folder) -> None:
    whole = _jpeg(put.picture())
    put.put("cat/cut.jpg", whole[: len(whole) // 2], "unreadable")
    put.put("dog/cut.png", _png(put.picture())[:-4000], "unreadable")
    put.put("cat/empty.jpg", b"", "unreadable")
    put.put("dog/text.jpg", b"no picture at all", "unreadable")
    (put.root / "bird/gone.jpg").symlink_to("nowhere.jpg")
    put.note("unreadable", "bird/gone.jpg")
    put.put("bird/bomb.png", bomb(), "huge_image")
    put.put("cat/bomb.png", bomb(60_000), "huge_image")
    put.put("cat/drawn.jpg", _png(put.picture()), "wrong_extension")
    put.put("bird/drawn.png", _jpeg(put.picture()), "wrong_extension")


def _no_images(put: _Folder) -> None:
    for path in ("cat/a.jxl", "dog/b.CR2", "bird/c.svg"):
        put.put(path, b"not for us", "unsupported")
    put.put("cat/notes.txt", b"text", "stray_file")
    put.put("readme.md", b"text", "stray_file")
    put.put("loose.jpg", _jpeg(put.picture()), "stray_file")
    if hasattr(os, "mkfifo"):
        os.mkfifo(put.root / "dog/pipe.jpg")
        put.note("stray_file", "dog/pipe.jpg")
    for path in (".DS_Store", "cat/.ipynb_checkpoints/x.jpg", "__MACOSX/cat/y.jpg", "cat/Thumbs.db"):
        put.put(path, b"x")
    put.note("hidden", ".DS_Store", "cat/.ipynb_checkpoints", "__MACOSX", "cat/Thumbs.db")


def _classes(put: _Folder) -> None:
    for name in ("later", "some day"):
        (put.root / name / "inside").mkdir(parents=True)
        put.note("empty_class", f"{name}/")
    for name in ("Cat", "dogs"):
        for i in range(3):
            put.put(f"{name}/{i}.jpg", _jpeg(put.picture()))
        put.note("tiny_class", f"{name}/")
    put.note("likely_same_class", "Cat/", "cat/", "dog/", "dogs/")


def _odd(put: _Folder) -> None:
    for i, turn in enumerate((3, 6, 8)):
        exif = Image.Exif()
        exif[0x0112] = turn
        put.put(f"cat/turned{i}.jpg", _jpeg(put.picture(), exif=exif), "exif_rotated")
    for i in range(2):
        see_through = put.picture()
        see_through.putalpha(Image.linear_gradient("L").resize(see_through.size))
        put.put(f"dog/alpha{i}.png", _png(see_through), "odd_mode")
        put.put(f"bird/gray{i}.jpg", _jpeg(put.picture().convert("L")), "odd_mode")
        put.put(f"bird/ink{i}.jpg", _jpeg(put.picture().convert("CMYK")), "odd_mode")
        deep = np.asarray(put.picture().convert("L"), np.uint16) * 257
        put.put(f"cat/deep{i}.png", _png(Image.fromarray(deep)), "odd_mode")
        put.put(f"dog/thumb{i}.jpg", _jpeg(put.picture().resize((20, 15))), "tiny_image")
        put.put(f"cat/strip{i}.jpg", _jpeg(put.picture(size=(500, 150))), "extreme_aspect")
    vast = put.picture().resize((7_200, 7_000))
    put.put("bird/vast.jpg", _jpeg(vast, 30), "huge_image")


def _poor(put: _Folder) -> None:
    for i in range(3):
        picture = put.picture()
        put.put(f"cat/dark{i}.jpg", _jpeg(ImageEnhance.Brightness(picture).enhance(0.15)), "dark")
        white = put.picture().point(lambda v: 243 + v // 24)
        put.put(f"dog/bright{i}.jpg", _jpeg(white, 95), "bright")
        soft = put.picture()
        soft = soft.filter(ImageFilter.GaussianBlur(0.03 * min(soft.size)))
        put.put(f"bird/blurred{i}.jpg", _jpeg(soft), "blurry")
        put.put(f"cat/blank{i}.jpg", _jpeg(Image.new("RGB", (200 + i, 150), (90, 120, 40 + i))), "low_information")
        boxed = put.picture(size=(320, 200))
        letterbox = ImageOps.expand(boxed, (0, 40), "black")
        put.put(f"dog/boxed{i}.jpg", _jpeg(letterbox), "constant_border")


def _copies(put: _Folder, rng: random.Random) -> dict[str, list[tuple[str, str]]]:
    pairs = defaultdict(list)
    for kind, make_copy in COPY.items():
        for i in range(COPIES):
            picture, label = put.picture(), CLASSES[i % len(CLASSES)]
            first = put.put(f"{label}/{kind}{i}.jpg", _jpeg(picture), "near_duplicate")
            second = put.put(f"{label}/{kind}{i} copy.jpg", make_copy(picture, rng), "near_duplicate")
            pairs[kind].append((first, second))
    for i in range(3):
        encoded = _jpeg(put.picture())
        for name in ("", " copy", " copy 2")[: 2 + i % 2]:
            put.put(f"bird/same{i}{name}.jpg", encoded, "exact_duplicate")
        torn = put.picture()
        put.put(f"cat/torn{i}.jpg", _jpeg(torn), "label_conflict")
        put.put(f"dog/torn{i}.jpg", _jpeg(torn), "label_conflict")
        put.put(f"bird/split{i}.jpg", _jpeg(torn := put.picture()), "label_conflict")
        put.put(f"dog/split{i}.jpg", _jpeg(torn, 50), "label_conflict")
    return pairs


def splits(root: Path) -> Expected:
    """Splits with leaks, and a class that only one of them has."""
    put = _Folder(root)
    put.count = 10_000
    for split, count in (("train", 30), ("validation", 12), ("test", 12)):
        for i in range(count):
            put.put(f"{split}/{('cat', 'dog')[i % 2]}/{i}.jpg", _jpeg(put.picture()))
    for i in range(3):
        picture = put.picture()
        put.put(f"train/cat/leak{i}.jpg", _jpeg(picture), "leak")
        put.put(f"test/cat/leak{i}.jpg", _jpeg(picture, 90 if i else 60), "leak")
    for i in range(2):
        put.put(f"validation/horse/{i}.jpg", _jpeg(put.picture()))
        put.put(f"train/cow/{i}.jpg", _jpeg(put.picture()))
    put.note("class_mismatch", "horse/", "cow/")
    put.note("tiny_class", "cow/")
    return put.expected


def shortcuts(root: Path) -> list[tuple[Path, set[str]]]:
    """Five folders in which file properties predict the class "circle", and the classes to be reported."""
    variants = {
        "size": lambda picture, is_circle: _jpeg(picture.resize((200, 150)) if is_circle else picture),
        "aspect": lambda picture, is_circle: _jpeg(picture.resize((60, 80)) if is_circle else picture),
        "mode": lambda picture, is_circle: _jpeg(picture.convert("L") if is_circle else picture),
        "type": lambda picture, is_circle: _png(picture) if is_circle else _jpeg(picture),
        "mostly": None,
    }
    folders = []
    for k, (kind, how) in enumerate(variants.items()):
        rng = random.Random(k)
        folder = root / str(k)
        for label, name in enumerate(SHAPES[:4]):
            for i in range(25):
                picture, is_circle = shape(name, label, 1_000 * k + i), name == "circle"
                if how is None:  # nine of ten are larger, with some noise in all sizes
                    side = 150 if is_circle and i % 10 else 90
                    content = _jpeg(picture.resize((side + rng.randint(-20, 20), 80)))
                else:
                    content = how(picture, is_circle)
                suffix = ".png" if kind == "type" and is_circle else ".jpg"
                target = folder / name / f"{i}{suffix}"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
        folders.append((folder, {"circle/"}))
    return folders


def sound_sets(root: Path) -> list[Path]:
    """Ten folders in which file properties predict no class: one size, any size, two cameras, mixed types and modes."""
    folders = []
    for k in range(10):
        rng = random.Random(100 + k)
        folder = root / str(k)
        for label, name in enumerate(SHAPES[: 2 + k % 4]):
            for i in range(20 + 5 * (label % 2)):
                picture = shape(name, label, 1_000 * k + 500 + i)
                kind = k % 5
                if kind == 1:
                    picture = picture.resize((rng.randint(50, 300), rng.randint(50, 300)))
                elif kind == 2:
                    picture = picture.resize(rng.choice([(160, 120), (120, 160)]))
                elif kind == 3 and rng.random() < 0.3:
                    picture = picture.convert("L")
                elif kind == 4:  # one camera more often for one class, as it happens
                    picture = picture.resize((160, 120) if rng.random() < (0.7 if label == 0 else 0.4) else (90, 90))
                png = kind == 3 and rng.random() < 0.5
                target = folder / name / f"{i}{'.png' if png else '.jpg'}"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(_png(picture) if png else _jpeg(picture))
        folders.append(folder)
    return folders


if __name__ == "__main__":
    top = Path(sys.argv[1])
    shutil.rmtree(top, ignore_errors=True)
    pictures(top / "pictures")
    splits(top / "splits")
    shortcuts(top / "shortcuts")
    sound_sets(top / "sound")
