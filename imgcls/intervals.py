"""How far a share of some images may lie from the truth, and whether one model is clearly better than another."""

from __future__ import annotations

import math

import numpy as np

from imgcls.errors import MetricError

_Z95 = 1.959963984540054  # two-sided 95 % point of the normal distribution


def wilson_interval(correct: int, n: int, z: float = _Z95) -> tuple[float, float]:
    """Interval of a share, (low, high) in 0..1, honest for few images and near 0 and 1. Source: Wilson 1927."""
    if not 0 <= correct <= n or n == 0:
        raise MetricError(f"Expected 0 <= correct <= n and n > 0, got {correct} of {n}.")
    share, z2n = correct / n, z * z / n
    middle = (share + z2n / 2) / (1 + z2n)
    half = z / (1 + z2n) * math.sqrt(share * (1 - share) / n + z2n / (4 * n))
    # rounding would leave 1e-17 and 1 - 1e-16 at the ends
    return max(0.0, middle - half) if correct else 0.0, min(1.0, middle + half) if correct < n else 1.0


def standard_error(share: float, n: int) -> float:
    """Standard error of a share of n, with one hit and one miss added: 1.0 of 30 images is not certain either."""
    smoothed = (share * n + 1) / (n + 2)
    return math.sqrt(smoothed * (1 - smoothed) / n)


def surplus(first: np.ndarray, second: np.ndarray) -> int:
    """Images that the first got right and the second did not, less those the other way round; 0 unless it is clear.

    first, second: bool (N,), the same images in the same order. Clear: above the square root of the number of images
    on which they differ, one more added, so that one image decides nothing. Source: McNemar 1947, one standard error.
    """
    wins, losses = int((first & ~second).sum()), int((~first & second).sum())
    return wins - losses if wins - losses > (wins + losses + 1) ** 0.5 else 0
