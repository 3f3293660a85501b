"""The embedded demo: scikit-learn's 1,797 handwritten digits as class folders, so the bare command needs no data."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

DEMO_INPUT_PX = 64  # of the network; the images themselves are 10 x 10 px
DEMO_IMAGES = 1797


def write_demo_digits(parent: Path) -> Path:
    """Folder 0/ to 9/ of grayscale PNGs, 10 x 10 px, written once into `parent`.

    The digits fill their 8 x 8 px; a margin of one keeps a processor's centre crop (12.5 %) from cutting them.
    Source: scikit-learn's `load_digits`, the test part of UCI's "Optical Recognition of Handwritten Digits".
    """
    target = parent / "digits"
    if target.is_dir():
        return target
    from sklearn.datasets import load_digits  # a second to import

    beside = parent / f".digits.{os.getpid()}"
    digits = load_digits()
    for i, (pixels, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
        (beside / str(digit)).mkdir(parents=True, exist_ok=True)
        gray = np.pad((pixels * 255 / 16).round().astype(np.uint8), 1)
        Image.fromarray(gray).save(beside / str(digit) / f"{i:04d}.png")
    try:
        beside.rename(target)
    except OSError:  # another process was first
        shutil.rmtree(beside)
        if not target.is_dir():
            raise
    return target
