"""Image corruptions as caused by cameras, light and messengers, to measure the robustness of a model.

Kinds after Hendrycks & Dietterich 2019, "Benchmarking neural network robustness". Strengths are our own, relative to
the size of the image, so that they mean the same for every camera.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

MAX_SIDE_PX = 512  # larger images are shrunk first, or the blocks of a JPEG would vanish in them
GRAY = (118, 118, 118)


def _blur(image: Image.Image, fraction: float, _: random.Random) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(fraction * min(image.size)))


def _noise(image: Image.Image, deviation: float, rng: random.Random) -> Image.Image:
    noise = np.random.default_rng(rng.getrandbits(64)).normal(0, deviation, (image.height, image.width, 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def _jpeg(image: Image.Image, quality: float, _: random.Random) -> Image.Image:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=int(quality))
    return Image.open(out).convert("RGB")


def _brightness(image: Image.Image, factor: float, _: random.Random) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(factor)


def _contrast(image: Image.Image, factor: float, _: random.Random) -> Image.Image:
    return ImageEnhance.Contrast(image).enhance(factor)


def _rotation(image: Image.Image, degrees: float, rng: random.Random) -> Image.Image:
    return image.rotate(degrees * rng.choice((-1, 1)), Image.Resampling.BICUBIC, fillcolor=GRAY)


# kind -> function, unit of its strength, and values from mild to strong
CORRUPTIONS: dict[str, tuple[Callable[[Image.Image, float, random.Random], Image.Image], str, tuple[float, ...]]] = {
    "blur": (_blur, "of the shorter side", (0.005, 0.01, 0.02)),
    "noise": (_noise, "gray levels", (12, 25, 50)),
    "JPEG": (_jpeg, "quality", (30, 15, 7)),
    "darker": (_brightness, "times as bright", (0.6, 0.4, 0.25)),
    "brighter": (_brightness, "times as bright", (1.4, 1.8, 2.4)),
    "less contrast": (_contrast, "times the contrast", (0.6, 0.4, 0.2)),
    "rotation": (_rotation, "degrees", (5, 15, 30)),
}


def corrupt(image: Image.Image, kind: str, value: float, seed: object) -> Image.Image:
    """A corrupted copy of an RGB image. seed: decides the noise and the direction of rotation."""
    image = image.copy()
    image.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX))
    function, _, _ = CORRUPTIONS[kind]
    return function(image, value, random.Random(f"{seed} {kind} {value}"))
