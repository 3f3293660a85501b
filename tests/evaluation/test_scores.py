"""Scores of single images and calibration bins."""

import math

import numpy as np
import pytest
from logit_cases import CASES

from imgcls.errors import MetricError
from imgcls.evaluation.metrics import compute_metrics
from imgcls.evaluation.scores import (
    ECE_BINS,
    expected_calibration_error,
    log_softmax,
    most_confused,
    top_k_hits,
    weakest,
)


def per_class_metrics(logits, labels):
    classes = [f"c{i}" for i in range(logits.shape[1])]
    return compute_metrics(logits, labels, classes)["per_class"]


def test_log_softmax_is_stable_for_any_size():
    logits = np.array([[1.7e308, -1.7e308, 0.0], [0.0, 0.0, 0.0], [-1e6, -1e6 - 1, -1e6 - 2]])
    found = log_softmax(logits)
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1)
    np.testing.assert_allclose(found[1], -math.log(3))
    np.testing.assert_allclose(found[2], log_softmax(np.array([[0.0, -1.0, -2.0]]))[0])
    assert log_softmax(np.zeros((0, 3))).shape == (0, 3)


def test_expected_calibration_error_equals_a_hand_computation():
    """Bins of 1/15: 0 with 0.05 | 1/15 + a bit | 0.9, 0.92 (13.5 and 13.8, bin 14) | 1."""
    confidence = np.array([0.0, 0.05, 0.07, 0.90, 0.92, 1.0])
    correct = np.array([False, True, False, True, False, True])
    expected = (abs(0.05 - 1) + 0.07 + abs(1.82 - 1) + 0) / 6
    assert expected_calibration_error(confidence, correct) == pytest.approx(expected)


@pytest.mark.parametrize("edge", range(1, ECE_BINS))
def test_expected_calibration_error_bins_include_their_upper_end(edge):
    """A wrong image at the edge and a right one a little below share a bin, so their gaps partly cancel."""
    at = edge / ECE_BINS
    below, above = at - 1e-6, at + 1e-6
    right = np.array([True, False])
    together, apart = abs(at + below - 1) / 2, (abs(1 - above) + at) / 2
    assert expected_calibration_error(np.array([below, at]), right) == pytest.approx(together)
    assert expected_calibration_error(np.array([above, at]), right) == pytest.approx(apart)


@pytest.mark.parametrize(("n", "m"), [(0, 0), (3, 2)])
def test_expected_calibration_error_refuses_empty_and_unequal_arrays(n, m):
    with pytest.raises(MetricError, match="Expected two arrays"):
        expected_calibration_error(np.zeros(n), np.zeros(m, bool))


@pytest.mark.parametrize("k", [1, 2, 5, 7])
def test_top_k_hits_with_ties(k):
    logits, labels = CASES["ties"]
    expected = [
        label in sorted(range(7), key=lambda c: (-row[c], c))[:k] for row, label in zip(logits, labels, strict=True)
    ]
    assert top_k_hits(logits, labels, k).tolist() == expected


def test_top_k_hits_of_one_is_argmax():
    for logits, labels in CASES.values():
        np.testing.assert_array_equal(top_k_hits(logits, labels, 1), logits.argmax(axis=1) == labels)


def test_most_confused_lists_the_largest_counts_first():
    matrix = [[9, 4, 0], [7, 9, 4], [1, 0, 9]]
    assert most_confused(matrix, "abc") == [("b", "a", 7), ("a", "b", 4), ("b", "c", 4)]
    assert most_confused(matrix, "abc", count=10)[-1] == ("c", "a", 1)
    assert len(most_confused(matrix, "abc", count=10)) == 4
    assert most_confused(np.array(matrix), "abc", count=1) == [("b", "a", 7)]
    assert most_confused([[3, 0], [0, 4]], "ab") == []


def test_weakest_lists_the_lowest_f1_first():
    logits = np.eye(4)[[0, 0, 1, 0, 2, 0, 0]]
    per_class = per_class_metrics(logits, np.array([0, 0, 1, 1, 2, 2, 2]))
    assert weakest(per_class) == ["c2", "c0", "c1"]  # F1 1/2, 4/7, 2/3; c3 does not occur
    assert weakest(per_class, count=1) == ["c2"]
    faultless = per_class_metrics(np.eye(3), np.arange(3))
    assert weakest(faultless) == []


def test_weakest_with_classes_that_are_never_right():
    per_class = per_class_metrics(*CASES["all wrong"])
    assert weakest(per_class, count=2) == ["c0", "c1"]
    assert all(numbers["f1"] == 0 for numbers in per_class.values())
