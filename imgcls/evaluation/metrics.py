"""Classification metrics from logits and labels, in a stream."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike

from imgcls.errors import MetricError, shorten
from imgcls.evaluation.intervals import macro_intervals, wilson_interval
from imgcls.evaluation.scores import ECE_BINS, calibration_bins, calibration_gap, log_softmax, top_k_hits


class ClassificationMetrics:
    """All metrics of one split in metrics.json, from sufficient statistics: K x K counts and a few sums.

    Memory does not grow with the number of images. Ties go to the class with the lower index. Images whose logits
    contain NaN or infinity count as wrong (in the confusion matrix, as predicted as the class after the true one) and
    have an infinite loss; ECE ignores them, since they have no confidence. `non_finite` is their number. So a diverged
    model shows in the metrics and does not stop the training under evaluation.
    """

    def __init__(self, classes: Sequence[str]):
        self.classes = list(classes)
        if len(set(self.classes)) < max(2, len(self.classes)):
            raise MetricError(
                f"Expected two classes or more with unique names, got {shorten(self.classes)}. Rename or add classes."
            )
        self._reset()

    def __len__(self) -> int:
        return int(self._matrix.sum())

    def _reset(self) -> None:
        k = len(self.classes)
        self._matrix = np.zeros((k, k), np.int64)
        self._loss = 0.0
        self._top5 = self._non_finite = 0
        self._bins = np.zeros((3, ECE_BINS))  # count, sum of confidence, number correct

    def add_batch(self, logits: ArrayLike | torch.Tensor, labels: ArrayLike | torch.Tensor) -> None:
        """Add images. logits: (N, K), NumPy or torch. labels: int (N,), 0 <= label < K. Raises MetricError."""
        logits, labels = to_array(logits).astype(np.float64), to_array(labels)
        k = len(self.classes)
        if logits.ndim != 2 or logits.shape[1] != k or labels.shape != logits.shape[:1]:
            raise MetricError(f"Expected logits (N, {k}) and labels (N,), got {logits.shape} and {labels.shape}.")
        if len(labels) and labels.dtype.kind not in "iu":
            raise MetricError(f"Expected labels that are integers, got {labels.dtype}.")
        if len(labels) and not (labels.min() >= 0 and labels.max() < k):
            raise MetricError(f"Expected labels from 0 to {k - 1}, got {labels.min()}..{labels.max()}.")
        labels = labels.astype(np.int64)  # uint8 + 1 would wrap around, uint8 % 1000 is an error
        finite = np.isfinite(logits).all(axis=1)
        self._non_finite += int((~finite).sum())
        wrong = (labels[~finite] + 1) % k
        np.add.at(self._matrix, (labels[~finite], wrong), 1)
        self._loss += math.inf if not finite.all() else 0.0
        self._add_finite(logits[finite], labels[finite])

    def _add_finite(self, logits: np.ndarray, labels: np.ndarray) -> None:
        log_p = log_softmax(logits)
        predicted = logits.argmax(axis=1)
        confidence = np.exp(log_p[np.arange(len(labels)), predicted])
        np.add.at(self._matrix, (labels, predicted), 1)
        self._loss -= float(log_p[np.arange(len(labels)), labels].sum())
        self._top5 += int(top_k_hits(logits, labels, min(5, logits.shape[1])).sum())
        self._bins += calibration_bins(confidence, predicted == labels)

    def compute(self) -> dict:
        """All metrics of the images added so far, as plain Python values; then resets.

        Raises MetricError when no images were added. In per_class, precision is None for a class that was never
        predicted, recall for one without images, and F1 when both are the case. macro_f1 averages F1 over the classes
        that have images or were predicted; balanced_accuracy averages recall over the classes that have images. Both
        agree with scikit-learn.
        """
        n = len(self)
        if n == 0:
            raise MetricError("Expected at least one image to evaluate, got none.")
        correct = int(self._matrix.trace())
        per_class = self._per_class()
        f1 = [c["f1"] for c in per_class.values() if c["f1"] is not None]
        recall = [c["recall"] for c in per_class.values() if c["recall"] is not None]
        numbers = {
            "images": n,
            "accuracy": correct / n,
            "accuracy_ci95": list(wilson_interval(correct, n)),
            "loss": self._loss / n,
            "top5_accuracy": self._top5 / n,
            "balanced_accuracy": sum(recall) / len(recall),
            "macro_f1": sum(f1) / len(f1),
            "ece": calibration_gap(self._bins),
            "confusion_matrix": self._matrix.tolist(),
            "per_class": per_class,
        }
        if self._non_finite:
            numbers["non_finite"] = self._non_finite
        self._reset()
        return numbers

    def _per_class(self) -> dict[str, dict]:
        support, predicted = self._matrix.sum(axis=1).tolist(), self._matrix.sum(axis=0).tolist()
        results = {}
        for i, name in enumerate(self.classes):
            hits = int(self._matrix[i, i])
            results[name] = {
                "precision": hits / predicted[i] if predicted[i] else None,
                "recall": hits / support[i] if support[i] else None,
                "f1": 2 * hits / (support[i] + predicted[i]) if support[i] + predicted[i] else None,
                "support": support[i],
            }
        return results


def compute_metrics(logits: np.ndarray, labels: ArrayLike, classes: Sequence[str]) -> dict:
    """All metrics of one split in metrics.json, with intervals of the macro metrics. logits: (N, K). labels: (N,)."""
    metrics = ClassificationMetrics(classes)
    metrics.add_batch(logits, np.asarray(labels))
    results = metrics.compute()
    return results | macro_intervals(results["confusion_matrix"])


def to_array(values: ArrayLike | torch.Tensor | None) -> np.ndarray:
    """A NumPy array, or a torch tensor of any device and floating type, as NumPy."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = values.double() if values.is_floating_point() else values
        return values.numpy()
    return np.asarray(values)
