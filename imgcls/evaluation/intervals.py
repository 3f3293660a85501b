"""How far a share of some images may lie from the truth, and whether one model is clearly better than another."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import bdtr

from imgcls.errors import MetricError

_Z95 = 1.959963984540054  # two-sided 95 % point of the normal distribution
DRAWS = 1_000  # of a bootstrap: the ends of its intervals then move by about 0.002 from seed to seed


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


def significant_margin(first: np.ndarray, second: np.ndarray) -> int:
    """Images that the first got right and the second did not, less those the other way round; 0 unless it is clear.

    first, second: bool (N,), the same images in the same order. Clear: above the square root of the number of images
    on which they differ, one more added, so that one image decides nothing. Source: McNemar 1947, one standard error.
    """
    wins, losses = int((first & ~second).sum()), int((~first & second).sum())
    return wins - losses if wins - losses > (wins + losses + 1) ** 0.5 else 0


def mcnemar(first: np.ndarray, second: np.ndarray) -> dict:
    """Which of two models is right more often on the same images, and whether chance explains it.

    first, second: bool (N,), the same images in the same order. Returns images that only the first and only the second
    got right, the difference of their accuracies with a 95 % interval, and the exact two-sided p-value.
    Source: McNemar 1947; the interval is Wald's with one image added to each of the four cells (Agresti & Min 2005).
    """
    if not len(first) or len(first) != len(second):
        raise MetricError(f"Expected two arrays of the same images, got {len(first)} and {len(second)}.")
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    differ, n = only_first + only_second, len(first)
    a, b, total = only_first + 0.5, only_second + 0.5, n + 2  # half an image in each of the two cells of either kind
    middle = (a - b) / total
    half = _Z95 * math.sqrt(max(a + b - (a - b) ** 2 / total, 0.0)) / total
    return {
        "only_first": only_first,
        "only_second": only_second,
        "difference": (only_first - only_second) / n,
        "ci95": [max(-1.0, middle - half), min(1.0, middle + half)],
        "p_value": min(1.0, 2 * float(bdtr(min(only_first, only_second), differ, 0.5))),
    }


def bootstrap(values: np.ndarray, statistic, seed: int = 0, draws: int = DRAWS) -> list[float]:
    """95 % interval of `statistic` by resampling images. values: (N, ...). statistic: (n, ...) -> float.

    Source: Efron 1979, percentiles.
    """
    rng = np.random.default_rng(seed)
    found = [statistic(values[rng.integers(0, len(values), len(values))]) for _ in range(draws)]
    return np.quantile(found, [0.025, 0.975]).tolist()


def macro_intervals(confusion_matrix, seed: int = 0, draws: int = DRAWS) -> dict[str, list[float]]:
    """95 % intervals of balanced accuracy and macro F1, by resampling the images of each class.

    confusion_matrix: counts (K, K), a row a true class. Classes keep their number of images, so a draw loses none.
    """
    matrix = np.asarray(confusion_matrix)
    rng = np.random.default_rng(seed)
    support = matrix.sum(1)
    hits, predicted = np.zeros((draws, len(matrix))), np.zeros((draws, len(matrix)))
    for i in np.flatnonzero(support):
        at = np.flatnonzero(matrix[i])
        drawn = rng.multinomial(support[i], matrix[i, at] / support[i], size=draws)
        predicted[:, at] += drawn
        if matrix[i, i]:
            hits[:, i] = drawn[:, np.searchsorted(at, i)]
    seen = support > 0
    recall = (hits[:, seen] / support[seen]).mean(1)
    either = support + predicted
    f1 = np.divide(2 * hits, either, out=np.zeros_like(hits), where=either > 0)
    macro = f1.sum(1) / (either > 0).sum(1)
    return {
        "balanced_accuracy_ci95": np.quantile(recall, [0.025, 0.975]).tolist(),
        "macro_f1_ci95": np.quantile(macro, [0.025, 0.975]).tolist(),
    }
