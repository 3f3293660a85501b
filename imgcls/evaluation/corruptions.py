"""Photos made worse on purpose, as cameras, light and messengers do: how much of its accuracy does a model keep?

Kinds after Hendrycks & Dietterich 2019, "Benchmarking neural network robustness"; strengths are ours, relative to the
size of the picture, so that they mean the same for every camera.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

LARGEST_PX = 512  # of the longer side: larger photos are shrunk first, or a JPEG's blocks would vanish in them
GRAY = (118, 118, 118)


def _blur(image: Image.Image, share: float, _) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(share * min(image.size)))


def _noise(image: Image.Image, deviation: float, rng: random.Random) -> Image.Image:
    noise = np.random.default_rng(rng.getrandbits(64)).normal(0, deviation, (image.height, image.width, 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def _jpeg(image: Image.Image, quality: float, _) -> Image.Image:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=int(quality))
    return Image.open(out).convert("RGB")


def _brightness(image: Image.Image, factor: float, _) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(factor)


def _contrast(image: Image.Image, factor: float, _) -> Image.Image:
    return ImageEnhance.Contrast(image).enhance(factor)


def _rotation(image: Image.Image, degrees: float, rng: random.Random) -> Image.Image:
    return image.rotate(degrees * rng.choice((-1, 1)), Image.Resampling.BICUBIC, fillcolor=GRAY)


# kind -> how, its unit, and its values from mild to strong
CORRUPTIONS: dict[str, tuple[Callable, str, tuple[float, ...]]] = {
    "blur": (_blur, "of the shorter side", (0.005, 0.01, 0.02)),
    "noise": (_noise, "gray levels", (12, 25, 50)),
    "JPEG": (_jpeg, "quality", (30, 15, 7)),
    "darker": (_brightness, "times as bright", (0.6, 0.4, 0.25)),
    "brighter": (_brightness, "times as bright", (1.4, 1.8, 2.4)),
    "less contrast": (_contrast, "times the contrast", (0.6, 0.4, 0.2)),
    "rotation": (_rotation, "degrees", (5, 15, 30)),
}


def corrupt(image: Image.Image, kind: str, value: float, seed: object) -> Image.Image:
    """An RGB image made worse. seed: says which noise, and which way it is turned."""
    image = image.copy()
    image.thumbnail((LARGEST_PX, LARGEST_PX))
    return CORRUPTIONS[kind][0](image, value, random.Random(f"{seed} {kind} {value}"))
