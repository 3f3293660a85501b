"""Intervals of macro figures, the bootstrap and McNemar's test, against obvious implementations."""

import math
from fractions import Fraction

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from imgcls.errors import MetricError
from imgcls.evaluation import intervals
from imgcls.evaluation.metrics import compute_metrics


def resampled(labels, predicted, statistic, draws=1500):
    """The obvious way: images of each class drawn again with replacement, one class after the other."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(draws):
        at = np.concatenate([rng.choice(np.flatnonzero(labels == c), (labels == c).sum()) for c in np.unique(labels)])
        found.append(statistic(labels[at], predicted[at]))
    return np.quantile(found, [0.025, 0.975])


@pytest.mark.parametrize(("n", "k", "right"), [(60, 3, 0.8), (200, 10, 0.5), (40, 2, 0.95)])
def test_macro_intervals_equal_the_obvious_bootstrap(n, k, right):
    rng = np.random.default_rng(0)
    labels = np.concatenate([np.arange(k), rng.integers(0, k, n - k)])
    predicted = np.where(rng.random(n) < right, labels, rng.integers(0, k, n))
    matrix = np.zeros((k, k), int)
    np.add.at(matrix, (labels, predicted), 1)
    found = intervals.macro_intervals(matrix)

    def macro_f1(true, said):
        return f1_score(true, said, average="macro", labels=np.union1d(true, said), zero_division=0)

    for name, statistic in (("balanced_accuracy_ci95", balanced_accuracy_score), ("macro_f1_ci95", macro_f1)):
        assert found[name] == pytest.approx(resampled(labels, predicted, statistic), abs=0.02)


@pytest.mark.parametrize("matrix", [[[1]], [[5, 0], [0, 0]], [[0, 3], [0, 0]], np.eye(1000, dtype=int).tolist()])
def test_macro_intervals_of_degenerate_matrices(matrix):
    for low, high in intervals.macro_intervals(matrix).values():
        assert 0 <= low <= high <= 1
    if np.trace(matrix) == np.sum(matrix):
        assert intervals.macro_intervals(matrix) == {"balanced_accuracy_ci95": [1, 1], "macro_f1_ci95": [1, 1]}


def test_compute_metrics_has_macro_intervals():
    numbers = compute_metrics(np.array([[2.0, 0], [0, 1.0], [3.0, 0]]), [0, 1, 1], ["a", "b"])
    assert numbers["balanced_accuracy_ci95"][0] <= numbers["balanced_accuracy"] <= numbers["balanced_accuracy_ci95"][1]


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (5, 1), (10, 10), (30, 12)])
def test_mcnemar_equals_a_hand_computation(b, c):
    first = np.array([True] * b + [False] * c + [True] * 7 + [False] * 3)
    second = np.array([False] * b + [True] * c + [True] * 7 + [False] * 3)
    found = intervals.mcnemar(first, second)
    n = b + c
    tail = sum(math.comb(n, k) for k in range(min(b, c) + 1)) / 2**n  # exact binomial, one side
    assert found["p_value"] == pytest.approx(min(1, 2 * tail))
    assert (found["only_first"], found["only_second"]) == (b, c)
    assert found["difference"] == pytest.approx((b - c) / len(first))
    assert found["ci95"][0] <= found["difference"] <= found["ci95"][1]
    mirrored = intervals.mcnemar(second, first)
    assert mirrored["ci95"] == pytest.approx([-found["ci95"][1], -found["ci95"][0]])


def test_mcnemar_interval_covers_the_difference():
    """Of 400 pairs of models whose difference is 0.1, about 95 in 100 intervals hold it."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        u = rng.random(120)
        first, second = u < 0.8, (u < 0.6) | (u > 0.9)
        low, high = intervals.mcnemar(first, second)["ci95"]
        held += low <= 0.1 <= high
    assert 0.92 <= held / 400 <= 0.985


def test_mcnemar_refuses_empty_arrays():
    with pytest.raises(MetricError, match="same images"):
        intervals.mcnemar(np.array([], bool), np.array([], bool))


def test_bootstrap_of_a_mean_equals_the_normal_interval():
    values = np.random.default_rng(0).normal(3, 2, 400)
    low, high = intervals.bootstrap(values, np.mean)
    assert (low, high) == pytest.approx((values.mean() - 1.96 * 0.1, values.mean() + 1.96 * 0.1), abs=0.03)


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),  # statsmodels proportion_confint(method="wilson"), to four places
        (10, 10, 0.7225, 1.0),
        (5, 10, 0.2366, 0.7634),
        (1, 1, 0.2065, 1.0),
        (0, 1, 0.0, 0.7935),
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_equals_published_values(correct, n, low, high):
    assert intervals.wilson_interval(correct, n) == pytest.approx((low, high), abs=5.1e-5)


def test_wilson_interval_solves_its_equation():
    """Its ends are the shares p at which |correct/n - p| = z * sqrt(p (1 - p) / n)."""
    z = 1.96
    for correct, n in [(1, 7), (50, 100), (999, 1000), (3, 10_000)]:
        for p in intervals.wilson_interval(correct, n, z):
            assert abs(correct / n - p) == pytest.approx(z * math.sqrt(p * (1 - p) / n))
    for n in (1, 3, 10, 10_000_000):
        for correct in {0, 1, n // 2, n}:
            low, high = intervals.wilson_interval(correct, n)
            assert 0 <= low <= Fraction(correct, n) <= high <= 1


@pytest.mark.parametrize(("correct", "n"), [(0, 0), (-1, 5), (6, 5), (0, -1)])
def test_wilson_interval_refuses_impossible_counts(correct, n):
    with pytest.raises(MetricError, match="correct <= n"):
        intervals.wilson_interval(correct, n)
