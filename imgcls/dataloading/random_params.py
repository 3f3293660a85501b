"""Random parameters of training images: crops, flips, rotations, colours, erased boxes; for a whole batch at once.

Each is a pure function of (seed, epoch, index), so it is the same for any number of workers and processes and after
every resume.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from imgcls.dataloading.augmentation import PARAM_COLUMNS, PARAMS_PER_IMAGE, AugmentationPlan

CROP_ASPECT = (3 / 4, 4 / 3)  # Szegedy et al. 2015, section 6
ERASED_AREA, ERASED_ASPECT = (0.02, 0.2), (0.3, 3.3)  # Zhong et al. 2020
TRIES = 10  # boxes of which a crop is the first that fits in the photo
GAMMA = np.uint64(0x9E3779B97F4A7C15)  # SplitMix64's step


class UniformColumns(NamedTuple):
    """Columns of the uniform numbers from which an image's parameters are computed, (B, UNIFORMS_PER_IMAGE)."""

    crop_areas: slice = slice(0, TRIES)
    crop_aspects: slice = slice(TRIES, 2 * TRIES)
    crop_corner: slice = slice(2 * TRIES, 2 * TRIES + 2)
    flips: slice = slice(2 * TRIES + 2, 2 * TRIES + 4)
    is_rotated: int = 2 * TRIES + 4
    degrees: int = 2 * TRIES + 5
    colour: slice = slice(2 * TRIES + 6, 2 * TRIES + 9)
    is_erased: int = 2 * TRIES + 9
    erased_area: int = 2 * TRIES + 10
    erased_aspect: int = 2 * TRIES + 11
    erased_corner: slice = slice(2 * TRIES + 12, 2 * TRIES + 14)
    policy: int = 2 * TRIES + 14  # seed of the plan's policy


UNIFORM_COLUMNS = UniformColumns()
UNIFORMS_PER_IMAGE = UNIFORM_COLUMNS.policy + 1


def uniform(seed: int, keys: Sequence[tuple[int, int]]) -> np.ndarray:
    """Uniform random numbers in 0..1, (B, UNIFORMS_PER_IMAGE), for the (epoch, index) of each image.

    SplitMix64 (Steele, Lea & Flood 2014) turns any counter into a random number, so a batch takes few operations:
    numpy's generators take ten times as long, since each image would need a generator of its own.
    """
    epochs, indices = np.array(keys, np.uint64).reshape(-1, 2).T
    state = _mix(_mix(_mix(np.array([seed], np.uint64)) + epochs) + indices)
    states = state[:, None] + GAMMA * np.arange(1, UNIFORMS_PER_IMAGE + 1, dtype=np.uint64)
    return (_mix(states) >> np.uint64(11)) * 2.0**-53


def crop_boxes(uniforms: np.ndarray, sizes: np.ndarray, area: tuple[float, float], padded: bool = False) -> np.ndarray:
    """Random crops: left, top, right, bottom in px, (B, 4).

    uniforms: (B, UNIFORMS_PER_IMAGE). sizes: (B, 2), width and height of each photo. area: range of the fraction of the
    photo's area. padded: crops of the square around it. Ten tries for a box of random aspect that fits (Szegedy et al.
    2015), then the largest central one that has an allowed aspect.
    """
    sizes = np.repeat(sizes.max(1, keepdims=True), 2, axis=1) if padded else sizes
    areas = sizes.prod(1, keepdims=True) * _scale(uniforms[:, UNIFORM_COLUMNS.crop_areas], area)
    aspects = np.exp(_scale(uniforms[:, UNIFORM_COLUMNS.crop_aspects], np.log(CROP_ASPECT).tolist()))
    tries = np.stack([np.sqrt(areas * aspects), np.sqrt(areas / aspects)], axis=2).round()
    fits = np.all((tries > 0) & (tries <= sizes[:, None]), axis=2)
    sides = tries[np.arange(len(tries)), fits.argmax(1)]
    corners = np.floor(uniforms[:, UNIFORM_COLUMNS.crop_corner] * (sizes - sides + 1))
    none_fits = ~np.any(fits, axis=1)
    if none_fits.any():
        photos = sizes[none_fits].astype(float)
        aspect = (photos[:, 0] / photos[:, 1]).clip(*CROP_ASPECT)[:, None]
        sides[none_fits] = np.minimum(photos, photos[:, ::-1] * np.hstack([aspect, 1 / aspect]))
        corners[none_fits] = (photos - sides[none_fits]) / 2
    return np.hstack([corners, corners + sides])


def augmentation_params(uniforms: np.ndarray, plan: AugmentationPlan) -> np.ndarray:
    """All parameters but the crop, float32 (B, PARAMS_PER_IMAGE), see `ParamColumns`.

    uniforms: (B, UNIFORMS_PER_IMAGE).
    """
    params = np.zeros((len(uniforms), PARAMS_PER_IMAGE), np.float32)
    allowed_flips = [plan.flip != "none", plan.flip == "both"]
    params[:, PARAM_COLUMNS.flips] = (uniforms[:, UNIFORM_COLUMNS.flips] < 0.5) & allowed_flips
    degrees = _scale(uniforms[:, UNIFORM_COLUMNS.degrees], (-plan.degrees, plan.degrees))
    params[:, PARAM_COLUMNS.degrees] = np.where(uniforms[:, UNIFORM_COLUMNS.is_rotated] < 0.5, degrees, 0)
    colour = uniforms[:, UNIFORM_COLUMNS.colour]
    params[:, PARAM_COLUMNS.colour] = _scale(colour, (1 - plan.colour, 1 + plan.colour))
    is_erased = uniforms[:, UNIFORM_COLUMNS.is_erased, None] < plan.erase
    params[:, PARAM_COLUMNS.erased_box] = np.where(is_erased, _erased_boxes(uniforms), 0)
    return params


def _erased_boxes(uniforms: np.ndarray) -> np.ndarray:
    """Left, top, right, bottom in 0..1, (B, 4)."""
    area = _scale(uniforms[:, UNIFORM_COLUMNS.erased_area], ERASED_AREA)
    low, high = (math.log(end) for end in ERASED_ASPECT)
    aspect = np.exp(_scale(uniforms[:, UNIFORM_COLUMNS.erased_aspect], (low, high)))
    sides = np.minimum(1, np.sqrt(np.stack([area * aspect, area / aspect], axis=1)))
    corner = uniforms[:, UNIFORM_COLUMNS.erased_corner] * (1 - sides)
    return np.hstack([corner, corner + sides])


def _mix(state: np.ndarray) -> np.ndarray:
    """The output of SplitMix64 for each state, uint64."""
    state = state + GAMMA
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def _scale(uniforms: np.ndarray, ends: Sequence[float]) -> np.ndarray:
    """Uniform numbers of 0..1 in the range `ends`."""
    return ends[0] + (ends[1] - ends[0]) * uniforms
