"""Pictures made on the spot: simple shapes a network learns in seconds, and smooth ones that look like photos."""

from __future__ import annotations

import colorsys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "cross", "triangle", "ring", "bars")


def _draw(pen: ImageDraw.ImageDraw, shape: str, x: float, y: float, r: float, colour: tuple[int, int, int]) -> None:
    box = (x - r, y - r, x + r, y + r)
    width = max(2, round(r / 3))
    if shape == "circle":
        pen.ellipse(box, fill=colour)
    elif shape == "square":
        pen.rectangle(box, fill=colour)
    elif shape == "cross":
        pen.line((x - r, y - r, x + r, y + r), fill=colour, width=width)
        pen.line((x - r, y + r, x + r, y - r), fill=colour, width=width)
    elif shape == "triangle":
        pen.polygon([(x, y - r), (x + r, y + r), (x - r, y + r)], fill=colour)
    elif shape == "ring":
        pen.ellipse(box, outline=colour, width=width)
    else:
        for step in (-1, 0, 1):
            pen.line((x - r, y + step * r * 0.8, x + r, y + step * r * 0.8), fill=colour, width=width)


def shape(name: str, index: int, seed: int, size: tuple[int, int] = (80, 60)) -> Image.Image:
    """One picture of the class `name`, at position `index` of the class list; size is (width, height).

    A class called like one of SHAPES gets that shape; any other name gets shape and colour by its position.
    """
    kind = SHAPES[index % len(SHAPES)] if name not in SHAPES else name
    # 0.618: neighbours in the list get hues far apart, whatever their number.
    hue = (SHAPES.index(name) if name in SHAPES else index) * 0.618
    rng = np.random.default_rng([seed, index])
    width, height = size
    r = min(size) * rng.uniform(0.22, 0.36)
    x = rng.uniform(r, width - r)
    y = rng.uniform(r, height - r)
    rgb = colorsys.hsv_to_rgb((hue + rng.normal(0, 0.03)) % 1, rng.uniform(0.6, 0.95), rng.uniform(0.7, 1.0))
    picture = Image.new("RGB", size, tuple(int(v) for v in rng.integers(20, 90, 3)))
    _draw(ImageDraw.Draw(picture), kind, x, y, r, tuple(round(255 * v) for v in rgb))
    noisy = np.asarray(picture, dtype=np.float32) + rng.normal(0, 8, (height, width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def class_folders(
    root: str | Path,
    classes: tuple[str, ...] = ("circle", "square", "cross"),
    per_class: int = 12,
    size: tuple[int, int] = (80, 60),
    seed: int = 0,
    suffix: str = ".jpg",
) -> Path:
    """Write root/<class>/<class>_000.jpg ... and return root. The same seed gives the same bytes."""
    root = Path(root)
    for index, name in enumerate(classes):
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            picture = shape(name, index, seed * 100_003 + number, size)
            extra = {"quality": 92} if suffix.lower() in (".jpg", ".jpeg") else {}
            picture.save(folder / f"{name}_{number:03d}{suffix}", **extra)
    return root


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """An RGB picture with a photo's spectrum: smooth light, softer detail on top, a few edges, a little grain."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), dtype=np.float32)
    for cells, weight in ((2, 1.0), (4, 0.6), (8, 0.35), (16, 0.2), (32, 0.1)):
        for channel in range(3):
            noise = Image.fromarray(rng.normal(0, 1, (cells + 1, cells + 1)).astype(np.float32))
            total[..., channel] += weight * np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC))
    # Channels of a photo go together: mix in their mean.
    total = 0.5 * total + 0.5 * total.mean(axis=2, keepdims=True)
    picture = Image.fromarray((127 + 55 * total).clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    for kind in rng.choice(SHAPES[:4], 3):
        x, y, r = rng.uniform(0, width), rng.uniform(0, height), min(width, height) * rng.uniform(0.05, 0.18)
        _draw(pen, str(kind), x, y, r, tuple(int(v) for v in rng.integers(0, 256, 3)))
    grain = np.asarray(picture, dtype=np.float32) + rng.normal(0, 2, (height, width, 3))
    return Image.fromarray(grain.clip(0, 255).astype(np.uint8))
