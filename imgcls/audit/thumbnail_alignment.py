"""Lays one thumbnail over another: shift, scale and brightness are fitted, then both are compared.

Source: B. D. Lucas and T. Kanade, An Iterative Image Registration Technique, IJCAI 1981; Gauss-Newton steps.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.ndimage import uniform_filter

MAX_CROP = 0.12  # of a side: what the window may leave out or add
FIT_BELOW = 247  # level: brighter pixels may be clipped, so brightness is not fitted on them
MIN_FITTED = 0.25  # of the pixels inside the window; with fewer unclipped ones, all are fitted
MIN_INSIDE = 0.7  # of the pixels, for a window to count
DETAIL_PX = 7  # slower changes than this are light, not detail


class Alignment(NamedTuple):
    """How well `second` agrees with a window of `first`; n x n px thumbnails.

    correlation: (N,), -1 if no window lies far enough inside `first`. window: (N, 4), horizontal scale and shift,
    vertical scale and shift, px. rendered: `first` through the window, at the brightness of `second`, (N, n, n).
    inside: 1 where the window lies inside `first`, (N, n, n).
    """

    correlation: np.ndarray
    window: np.ndarray
    rendered: np.ndarray
    inside: np.ndarray


def align_by_gauss_newton(first: np.ndarray, second: np.ndarray, steps: int, window: np.ndarray) -> Alignment:
    """The best alignment that `steps` Gauss-Newton steps find from a window, as in `Alignment`.

    first, second: float32 (N, n, n), 0..255. Brightness is fitted where neither is overexposed, then clipped as a
    camera or an editor clips it.
    """
    count, n, _ = first.shape
    best = Alignment(np.full(count, -1, np.float32), window.copy(), np.zeros_like(first), np.zeros_like(first))
    for step in range(steps + 1):
        # 1. Look at `first` through the window.
        sampled, inside = _sample(first, window)
        # 2. Fit the brightness: gain and offset by least squares on pixels that are not clipped.
        fitted = _fitted_pixels(sampled, second, inside)
        mean_sampled, mean_second = weighted_mean(sampled, fitted), weighted_mean(second, fitted)
        centred_sampled, centred_second = (sampled - mean_sampled) * fitted, (second - mean_second) * fitted
        covariance = (centred_sampled * centred_second).sum((1, 2), keepdims=True)
        gain = covariance / ((centred_sampled**2).sum((1, 2), keepdims=True) + n)
        rendered = np.clip((sampled - mean_sampled) * gain + mean_second, 0, 255)
        # 3. Compare, and keep the best window so far.
        correlation = _correlation(rendered, second, inside)
        better = (inside.mean((1, 2)) >= MIN_INSIDE) & (correlation > best.correlation)
        for array, value in zip(best, (correlation, window, rendered, inside), strict=True):
            array[better] = value[better]
        if step == steps:
            break
        # 4. What the window should change: `second` at the brightness of `first`, less what is seen.
        inverse_gain = covariance / ((centred_second**2).sum((1, 2), keepdims=True) + n)
        residual = centred_second * inverse_gain - centred_sampled
        # 5. Move the window by the damped least-squares solution, within its limits.
        move = _damped_solution(_slopes(sampled, fitted), residual)
        window = np.clip(window + np.clip(move, -n / 16, n / 16), -MAX_CROP * n, MAX_CROP * n)
        window = window.astype(np.float32)
    return best


def detail_correlation(first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Correlation (N,) without slow changes: two sheets of paper in the same light are not the same sheet."""
    around = np.maximum(_blur(weights), 1e-3)
    return _cosine(*((thumbs - _blur(thumbs * weights) / around) * weights for thumbs in (first, second)))


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean of each picture, (N, 1, 1); weights: (N, n, n), 0..1."""
    return (values * weights).sum((1, 2), keepdims=True) / np.maximum(weights.sum((1, 2), keepdims=True), 1)


def _sample(first: np.ndarray, window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`first` through the window with bilinear interpolation, and whether each pixel lies inside it (0 or 1)."""
    n = first.shape[1]
    grid = np.arange(n, dtype=np.float32)
    unit = grid / (n - 1) * 2 - 1
    x = grid + window[:, 0, None] * unit + window[:, 1, None]
    y = grid + window[:, 2, None] * unit + window[:, 3, None]
    sampled = _bilinear_weights(y, n) @ first @ _bilinear_weights(x, n).transpose(0, 2, 1)
    inside_x, inside_y = ((places >= -0.5) & (places <= n - 0.5) for places in (x, y))
    return sampled, (inside_y[:, :, None] & inside_x[:, None, :]).astype(np.float32)


def _bilinear_weights(places: np.ndarray, n: int) -> np.ndarray:
    """Weights (N, m, n) for reading n pixels at places (N, m); places outside read the edge."""
    return np.maximum(0, 1 - np.abs(np.clip(places, 0, n - 1)[..., None] - np.arange(n, dtype=np.float32)))


def _fitted_pixels(sampled: np.ndarray, second: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """1 for the pixels inside that are not overexposed in either; all inside if too few are left."""
    unclipped = inside * ((second < FIT_BELOW) & (sampled < FIT_BELOW))
    enough = unclipped.sum((1, 2)) > MIN_FITTED * inside.sum((1, 2))
    return np.where(enough[:, None, None], unclipped, inside)


def _slopes(sampled: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """How each pixel changes with the four parameters of the window, (N, 4, n * n), without its mean."""
    count, n, _ = sampled.shape
    unit = np.arange(n, dtype=np.float32) / (n - 1) * 2 - 1
    down, right = np.gradient(sampled, axis=(1, 2))
    down, right = down * fitted, right * fitted
    slopes = np.stack([right * unit, right, down * unit[:, None], down], 1).reshape(count, 4, n * n)
    slopes -= slopes.mean(2, keepdims=True)
    return slopes


def _damped_solution(slopes: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """Change of the window (N, 4) that explains the residual best; damped, so that flat pictures do not move far."""
    normal = slopes @ slopes.transpose(0, 2, 1)
    damping = np.trace(normal, axis1=1, axis2=2) / 400 + 1e-3
    normal += np.eye(4, dtype=np.float32) * damping[:, None, None]
    return np.linalg.solve(normal, slopes @ residual.reshape(*slopes.shape[::2], 1))[..., 0]


def _correlation(first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return _cosine(*((thumbs - weighted_mean(thumbs, weights)) * weights for thumbs in (first, second)))


def _cosine(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosine of centred pictures, (N,); noise of a level per row lowers it for pictures with almost no contrast."""
    noise = first.shape[1]
    norm = ((first**2).sum((1, 2)) + noise) * ((second**2).sum((1, 2)) + noise)
    return (first * second).sum((1, 2)) / np.sqrt(norm)


def _blur(thumbs: np.ndarray) -> np.ndarray:
    return uniform_filter(thumbs, DETAIL_PX, mode="constant", axes=(1, 2))
