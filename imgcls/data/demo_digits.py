"""The built-in demo: scikit-learn's 1,797 handwritten digits as class folders."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

DEMO_INPUT_PX = 64  # of the network; the images themselves are 10 x 10 px
DEMO_IMAGES = 1797


def write_demo_digits(parent: Path) -> Path:
    """Write folders 0/ to 9/ of grayscale PNGs, 10 x 10 px, into `parent`/digits, once; returns that folder.

    The digits fill their 8 x 8 px; a margin of 1 px protects them from an image processor's center crop (12.5 %).
    Source: scikit-learn's `load_digits`, the test part of UCI's "Optical Recognition of Handwritten Digits".
    """
    target = parent / "digits"
    if target.is_dir():
        return target
    from sklearn.datasets import load_digits  # a second to import

    partial = parent / f".digits.{os.getpid()}"
    images, digits = load_digits(return_X_y=True)
    for i, (pixels, digit) in enumerate(zip(np.asarray(images).reshape(-1, 8, 8), digits, strict=True)):
        (partial / str(digit)).mkdir(parents=True, exist_ok=True)
        gray = np.pad((pixels * 255 / 16).round().astype(np.uint8), 1)
        Image.fromarray(gray).save(partial / str(digit) / f"{i:04d}.png")
    try:
        partial.rename(target)
    except OSError:  # another process has written it meanwhile
        shutil.rmtree(partial)
        if not target.is_dir():
            raise
    return target
