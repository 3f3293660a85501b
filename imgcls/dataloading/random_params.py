"""The random draws of training images: crops, mirrors, rotations, colours, erased boxes; of a whole batch at once.

Each is a pure function of (seed, epoch, index), so it is the same with any number of workers and processes and after
any kill.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from imgcls.dataloading.augmentation import PARAMS_PER_IMAGE, AugmentationPlan

CROP_ASPECT = (3 / 4, 4 / 3)  # Szegedy et al. 2015, section 6
TRIES = 10  # boxes that a crop is picked from: the first that lies in the photo
CROP = slice(0, 2 * TRIES + 2)
VARIATION = slice(CROP.stop, CROP.stop + 12)
POLICY = VARIATION.stop
NUMBERS = POLICY + 1  # that each image has
GAMMA = np.uint64(0x9E3779B97F4A7C15)  # SplitMix64's step


def uniform(seed: int, keys: Sequence[tuple[int, int]]) -> np.ndarray:
    """Numbers in 0..1, (B, NUMBERS), for the (epoch, index) of each image.

    SplitMix64 (Steele, Lea & Flood 2014), which turns any counter into a number, so that a batch is a few operations:
    numpy's generators take a tenfold time, since each image would move them to a place of its own.
    """
    epochs, indices = np.array(keys, np.uint64).reshape(-1, 2).T
    state = _mixed(_mixed(_mixed(np.array([seed], np.uint64)) + epochs) + indices)
    states = state[:, None] + GAMMA * np.arange(1, NUMBERS + 1, dtype=np.uint64)
    return (_mixed(states) >> np.uint64(11)) * 2.0**-53


def _mixed(state: np.ndarray) -> np.ndarray:
    state = state + GAMMA
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def crop_boxes(numbers: np.ndarray, sizes: np.ndarray, share: tuple[float, float], padded: bool = False) -> np.ndarray:
    """Random crops of the given shares of the area: left, top, right, bottom in px, (B, 4).

    numbers: (B, NUMBERS). sizes: (B, 2), width and height of each photo. padded: crops of the square around it. Ten
    tries for a box of random aspect that fits (Szegedy et al. 2015), then the largest central one that has an allowed
    aspect.
    """
    numbers, aspects = numbers[:, CROP], np.log(CROP_ASPECT)
    sizes = np.repeat(sizes.max(1, keepdims=True), 2, axis=1) if padded else sizes
    areas = sizes.prod(1, keepdims=True) * _between(share, numbers[:, :TRIES])
    aspects = np.exp(_between(aspects, numbers[:, TRIES : 2 * TRIES]))
    tries = np.stack([np.sqrt(areas * aspects), np.sqrt(areas / aspects)], axis=2).round()
    fits = ((tries > 0) & (tries <= sizes[:, None])).all(2)
    sides = tries[np.arange(len(tries)), fits.argmax(1)]
    corners = np.floor(numbers[:, 2 * TRIES :] * (sizes - sides + 1))
    none = ~fits.any(1)
    if none.any():
        whole = sizes[none].astype(float)
        aspect = (whole[:, 0] / whole[:, 1]).clip(*CROP_ASPECT)[:, None]
        sides[none] = np.minimum(whole, whole[:, ::-1] * np.hstack([aspect, 1 / aspect]))
        corners[none] = (whole - sides[none]) / 2
    return np.hstack([corners, corners + sides])


def augmentation_params(numbers: np.ndarray, plan: AugmentationPlan) -> np.ndarray:
    """What else is done to each image, float32 (B, DRAWS): as `augmentation.PARAMS_PER_IMAGE` has it. numbers: (B,
    NUMBERS)."""
    mirror, upside, rotates, angle, *colour, erases, area, aspect, left, top = numbers[:, VARIATION].T
    found = np.zeros((len(numbers), PARAMS_PER_IMAGE), np.float32)
    found[:, 0] = (mirror < 0.5) & (plan.flip != "none")
    found[:, 1] = (upside < 0.5) & (plan.flip == "both")
    found[:, 2] = np.where(rotates < 0.5, _between((-plan.degrees, plan.degrees), angle), 0)
    found[:, 3:6] = _between((1 - plan.colour, 1 + plan.colour), np.stack(colour, axis=1))
    # area and aspect of what is erased as in Zhong et al. 2020
    area, aspect = _between((0.02, 0.2), area), np.exp(_between((math.log(0.3), math.log(3.3)), aspect))
    w, h = np.minimum(1, np.sqrt(area * aspect)), np.minimum(1, np.sqrt(area / aspect))
    left, top = left * (1 - w), top * (1 - h)
    boxes = np.stack([left, top, left + w, top + h], axis=1)
    found[:, 6:10] = np.where((erases < plan.erase)[:, None], boxes, 0)
    return found


def _between(ends: tuple[float, float], numbers: np.ndarray) -> np.ndarray:
    return ends[0] + (ends[1] - ends[0]) * numbers
