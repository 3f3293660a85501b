"""Scores of single images and the calibration error, from logits and labels; needs only NumPy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from imgcls.errors import MetricError

ECE_BINS = 15  # Guo et al. 2017


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities, float64 (N, K), stable for logits of any size."""
    with np.errstate(over="ignore"):  # the lowest float64 minus the highest: -inf, whose exp is a correct 0
        shifted = logits - logits.max(axis=1, keepdims=True, initial=-np.inf)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def top_k_hits(logits: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Whether the true class is among the k largest logits, bool (N,); ties go to the lower class index."""
    of_label = logits[np.arange(len(labels)), labels][:, None]
    has_lower_index = np.arange(logits.shape[1]) < labels[:, None]
    return ((logits > of_label) | ((logits == of_label) & has_lower_index)).sum(axis=1) < k


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Mean distance between confidence and accuracy over 15 equal-width bins (lo, hi], weighted by their images.

    confidence: float array (N,) in 0..1, the largest probability of each image; 0 falls into the first bin.
    correct: bool array (N,). Returns a float in 0..1. Raises MetricError when N is 0 or the shapes disagree.
    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3.
    """
    confidence, correct = np.asarray(confidence, np.float64), np.asarray(correct)
    if confidence.ndim != 1 or not len(confidence) or confidence.shape != correct.shape:
        raise MetricError(f"Expected two arrays (N,) with N > 0, got {confidence.shape} and {correct.shape}.")
    return calibration_gap(calibration_bins(confidence, correct))


def calibration_bins(confidence: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """Count, sum of confidence and number correct of each bin, (3, ECE_BINS)."""
    indices = np.clip(np.ceil(confidence * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)
    return np.stack([np.bincount(indices, w, ECE_BINS) for w in (np.ones(len(indices)), confidence, correct)])


def calibration_gap(bins: np.ndarray) -> float:
    """ECE from the three rows of `calibration_bins`, which may be sums over batches."""
    count, confidence, hits = bins
    return float(np.abs(confidence - hits).sum() / max(count.sum(), 1))  # 0 when no image had finite logits


def most_confused(
    confusion_matrix: Sequence[Sequence[int]] | np.ndarray, classes: Sequence[str], count: int = 3
) -> list[tuple[str, str, int]]:
    """(true class, predicted class, images) of the largest counts off the diagonal, largest first, without zeros."""
    pairs = [
        (classes[i], classes[j], n) for i, row in enumerate(confusion_matrix) for j, n in enumerate(row) if i != j and n
    ]
    return sorted(pairs, key=lambda pair: -pair[2])[:count]


def weakest(per_class: dict[str, dict], count: int = 3) -> list[str]:
    """Names of the classes with the lowest F1, lowest first, without classes that have no images or an F1 of 1."""
    imperfect = [name for name, numbers in per_class.items() if numbers["support"] and numbers["f1"] < 1]
    return sorted(imperfect, key=lambda name: per_class[name]["f1"])[:count]
