"""JPEGs with the spectrum of photos: texture that falls off with frequency, colours that follow the brightness, noise.

A few are drawn, the others are these shifted and mirrored, so that thousands take seconds; all decode alike.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.fft import idctn

from imgcls.system import cpu

DRAWN = 8
NOISE = 6.0  # gray levels: a photo of 12 megapixels then takes 3 MB at quality 80, 4.8 MB at 90


def write(folder: Path, count: int, width: int, height: int, seed: int = 0, quality: int = 90) -> list[Path]:
    """`count` different files below `folder`, by a thread a core."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    drawn = [_texture(width, height, rng) for _ in range(min(DRAWN, count))]
    files = [folder / f"{number:07}.jpg" for number in range(count)]
    changes = [(rng.integers(0, (height, width)), rng.choice((1, -1))) for _ in files]

    def save(number: int) -> None:
        shift, way = changes[number]
        pixels = np.roll(drawn[number % len(drawn)], shift, axis=(0, 1))[:, ::way]
        Image.fromarray(pixels).save(files[number], quality=quality)

    with ThreadPoolExecutor(cpu.available_cores()) as pool:
        list(pool.map(save, range(count)))
    return files


def _texture(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 (height, width, 3)."""
    fall = 1 + np.add.outer(np.arange(height, dtype=np.float32), np.arange(width, dtype=np.float32))
    planes = [idctn(rng.standard_normal((height, width), np.float32) / fall**1.2) for _ in range(4)]
    found = np.empty((height, width, 3), np.uint8)
    for channel in range(3):
        plane = planes[3] + 0.3 * planes[channel]
        noisy = 127 + 55 * plane / plane.std() + NOISE * rng.standard_normal((height, width), np.float32)
        found[..., channel] = np.clip(noisy, 0, 255)
    return found
