"""Confidence intervals of metrics, and tests of whether one model is better than another."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import bdtr

from imgcls.errors import MetricError

_Z95 = 1.959963984540054  # two-sided 95 % point of the normal distribution
BOOTSTRAP_SAMPLES = 1_000  # the ends of the intervals then vary by about 0.002 from seed to seed


def wilson_interval(correct: int, n: int, z: float = _Z95) -> tuple[float, float]:
    """Interval of a proportion, (low, high) in 0..1, valid for few images and near 0 and 1. Source: Wilson 1927."""
    if not 0 <= correct <= n or n == 0:
        raise MetricError(f"Expected 0 <= correct <= n and n > 0, got {correct} of {n}.")
    proportion, z2n = correct / n, z * z / n
    center = (proportion + z2n / 2) / (1 + z2n)
    half_width = z / (1 + z2n) * math.sqrt(proportion * (1 - proportion) / n + z2n / (4 * n))
    # exact at the ends, where rounding would give 1e-17 and 1 - 1e-16
    low = max(0.0, center - half_width) if correct else 0.0
    high = min(1.0, center + half_width) if correct < n else 1.0
    return low, high


def standard_error(proportion: float, n: int) -> float:
    """Standard error of a proportion of n, after adding one hit and one miss, so that it is not 0 at 0 and 1."""
    smoothed = (proportion * n + 1) / (n + 2)
    return math.sqrt(smoothed * (1 - smoothed) / n)


def significant_margin(first: np.ndarray, second: np.ndarray) -> int:
    """Images that only the first model got right minus images that only the second got right; 0 unless significant.

    first, second: whether each image is correct, bool (N,), the same images in the same order. Significant: above the
    square root of (the number of images on which they differ + 1), so that a single image decides nothing. Source:
    McNemar 1947, one standard error.
    """
    wins, losses = int((first & ~second).sum()), int((~first & second).sum())
    return wins - losses if wins - losses > (wins + losses + 1) ** 0.5 else 0


def mcnemar(first: np.ndarray, second: np.ndarray) -> dict:
    """Whether the difference in accuracy of two models on the same images can be due to chance.

    first, second: whether each image is correct, bool (N,), the same images in the same order. Returns the numbers of
    images that only the first and only the second got right, the difference of the accuracies with a 95 % interval,
    and the exact two-sided p-value. Raises MetricError when there are no images. Source: McNemar 1947; the interval is
    Wald's with half an image added to each of the four cells (Agresti & Min 2005).
    """
    if not len(first) or len(first) != len(second):
        raise MetricError(f"Expected two arrays of the same images, got {len(first)} and {len(second)}.")
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    differ, n = only_first + only_second, len(first)
    a, b, total = only_first + 0.5, only_second + 0.5, n + 2  # n + 2: half an image in each of four cells
    center = (a - b) / total
    half_width = _Z95 * math.sqrt(max(a + b - (a - b) ** 2 / total, 0.0)) / total
    return {
        "only_first": only_first,
        "only_second": only_second,
        "difference": (only_first - only_second) / n,
        "ci95": [max(-1.0, center - half_width), min(1.0, center + half_width)],
        "p_value": min(1.0, 2 * float(bdtr(min(only_first, only_second), differ, 0.5))),
    }


def bootstrap(
    values: np.ndarray,
    statistic: Callable[[np.ndarray], float],
    seed: int = 0,
    samples: int = BOOTSTRAP_SAMPLES,
) -> list[float]:
    """95 % interval of a statistic by resampling images. values: (N, ...). statistic: (N, ...) -> float.

    Source: Efron 1979, percentile method.
    """
    rng = np.random.default_rng(seed)
    results = [statistic(values[rng.integers(0, len(values), len(values))]) for _ in range(samples)]
    return np.quantile(results, [0.025, 0.975]).tolist()


def macro_intervals(
    confusion_matrix: Sequence[Sequence[int]] | np.ndarray, seed: int = 0, samples: int = BOOTSTRAP_SAMPLES
) -> dict[str, list[float]]:
    """95 % intervals of balanced accuracy and macro F1, by resampling the images of each class.

    confusion_matrix: counts (K, K), one row per true class. Each sample has as many images of a class as the data.
    """
    matrix = np.asarray(confusion_matrix)
    rng = np.random.default_rng(seed)
    support = matrix.sum(1)
    hits, predicted = np.zeros((samples, len(matrix))), np.zeros((samples, len(matrix)))
    for i in np.flatnonzero(support):
        columns = np.flatnonzero(matrix[i])
        counts = rng.multinomial(support[i], matrix[i, columns] / support[i], size=samples)
        predicted[:, columns] += counts
        if matrix[i, i]:
            hits[:, i] = counts[:, np.searchsorted(columns, i)]
    occurs = support > 0
    recall = (hits[:, occurs] / support[occurs]).mean(1)
    total = support + predicted
    f1 = np.divide(2 * hits, total, out=np.zeros_like(hits), where=total > 0)
    macro_f1 = f1.sum(1) / (total > 0).sum(1)
    return {
        "balanced_accuracy_ci95": np.quantile(recall, [0.025, 0.975]).tolist(),
        "macro_f1_ci95": np.quantile(macro_f1, [0.025, 0.975]).tolist(),
    }
