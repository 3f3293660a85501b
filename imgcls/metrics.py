"""Logits and labels -> numbers, in a stream, as an `evaluate` module that needs neither network nor files."""

from __future__ import annotations

import math
from collections.abc import Sequence

import evaluate
import numpy as np

from imgcls.errors import MetricError

ECE_BINS = 15  # Guo et al. 2017
_Z95 = 1.959963984540054  # two-sided 95 % point of the normal distribution


class ImageClassification(evaluate.EvaluationModule):
    """Every number of a metrics.json part, from sufficient statistics: K x K counts and a few sums.

    Memory does not grow with the number of images, whatever is fed with add_batch. Ties go to the lower class.
    Logits that are not finite count as wrong with an infinite loss, and `non_finite` then tells how many.
    """

    def __init__(self, classes: Sequence[str]):
        # The base class would set up an Arrow file for inputs that are not kept here; it is an interface only.
        self.classes = list(classes)
        if len(self.classes) < 2:
            raise MetricError(f"Expected two classes or more, got {self.classes}.")
        self._reset()

    def _reset(self) -> None:
        k = len(self.classes)
        self._matrix = np.zeros((k, k), np.int64)
        self._loss = 0.0
        self._top5 = self._non_finite = 0
        self._bins = np.zeros((3, ECE_BINS))  # count, sum of confidence, number correct

    def add_batch(self, *, predictions, references) -> None:
        """Add images. predictions: logits (N, K), numpy or torch. references: int labels (N,), 0 <= label < K."""
        logits, labels = _array(predictions).astype(np.float64), _array(references)
        if logits.ndim != 2 or logits.shape[1] != len(self.classes) or labels.shape != logits.shape[:1]:
            raise MetricError(
                f"Expected logits (N, {len(self.classes)}) and labels (N,), got {logits.shape} and {labels.shape}."
            )
        if len(labels) and labels.dtype.kind not in "iu":
            raise MetricError(f"Expected labels that are whole numbers, got {labels.dtype}.")
        if len(labels) and not (labels.min() >= 0 and labels.max() < len(self.classes)):
            raise MetricError(f"Expected labels from 0 to {len(self.classes) - 1}, got {labels.min()}..{labels.max()}.")
        finite = np.isfinite(logits).all(axis=1)
        self._non_finite += int((~finite).sum())
        wrong = (labels[~finite] + 1) % len(self.classes)
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
        at = np.clip(np.ceil(confidence * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)  # bins (lo, hi]
        for row, values in enumerate((np.ones(len(labels)), confidence, predicted == labels)):
            np.add.at(self._bins[row], at, values)

    def add(self, *, prediction, reference) -> None:
        """Add one image: logits (K,) and its label."""
        self.add_batch(predictions=_array(prediction)[None], references=np.asarray([reference]))

    def compute(self, *, predictions=None, references=None) -> dict:
        """All numbers of what was added (and of what is given here), as plain Python values; starts anew then.

        Raises MetricError when nothing was added. In per_class, precision is None for a class never predicted and
        recall for one that never occurs; F1 is None when it is neither. macro_f1 averages F1 over the classes
        that occur or are predicted; balanced_accuracy averages recall over those that occur (both as scikit-learn).
        """
        if predictions is not None:
            self.add_batch(predictions=predictions, references=references)
        n = int(self._matrix.sum())
        if n == 0:
            raise MetricError("Expected at least one image to evaluate, got none.")
        correct = int(self._matrix.trace())
        per_class = self._per_class()
        f1 = [c["f1"] for c in per_class.values() if c["f1"] is not None]
        recall = [c["recall"] for c in per_class.values() if c["recall"] is not None]
        count, confidence, hits = self._bins
        numbers = {
            "images": n,
            "accuracy": correct / n,
            "accuracy_ci95": list(wilson_interval(correct, n)),
            "loss": self._loss / n,
            "top5_accuracy": self._top5 / n,
            "balanced_accuracy": sum(recall) / len(recall),
            "macro_f1": sum(f1) / len(f1),
            "ece": float(np.abs(confidence - hits).sum() / max(count.sum(), 1)),
            "confusion_matrix": self._matrix.tolist(),
            "per_class": per_class,
        }
        if self._non_finite:
            numbers["non_finite"] = self._non_finite
        self._reset()
        return numbers

    def _per_class(self) -> dict[str, dict]:
        occurs, predicted = self._matrix.sum(axis=1).tolist(), self._matrix.sum(axis=0).tolist()
        found = {}
        for i, name in enumerate(self.classes):
            hits = int(self._matrix[i, i])
            found[name] = {
                "precision": hits / predicted[i] if predicted[i] else None,
                "recall": hits / occurs[i] if occurs[i] else None,
                "f1": 2 * hits / (occurs[i] + predicted[i]) if occurs[i] + predicted[i] else None,
                "support": occurs[i],
            }
        return found


def _array(values) -> np.ndarray:
    """numpy or torch (any device and float type) -> numpy."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.double().numpy() if values.is_floating_point() else values.numpy()
    return np.asarray(values)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities, float64 (N, K), stable for logits of any size."""
    shifted = logits - logits.max(axis=1, keepdims=True, initial=-np.inf)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def top_k_hits(logits: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Whether the true class is among the k largest logits, bool (N,); ties go to the lower class index."""
    own = logits[np.arange(len(labels)), labels][:, None]
    before = np.arange(logits.shape[1]) < labels[:, None]
    return ((logits > own) | ((logits == own) & before)).sum(axis=1) < k


def wilson_interval(correct: int, n: int, z: float = _Z95) -> tuple[float, float]:
    """Interval of a share, (low, high) in 0..1, honest for few images and near 0 and 1. Source: Wilson 1927."""
    if not 0 <= correct <= n or n == 0:
        raise MetricError(f"Expected 0 <= correct <= n and n > 0, got {correct} of {n}.")
    share, z2n = correct / n, z * z / n
    middle = (share + z2n / 2) / (1 + z2n)
    half = z / (1 + z2n) * math.sqrt(share * (1 - share) / n + z2n / (4 * n))
    # rounding would leave 1e-17 and 1 - 1e-16 at the ends
    return max(0.0, middle - half) if correct else 0.0, min(1.0, middle + half) if correct < n else 1.0


def most_confused(confusion_matrix, classes: Sequence[str], count: int = 3) -> list[tuple[str, str, int]]:
    """The (true, predicted, images) of the largest counts off the diagonal, largest first, zeros dropped."""
    pairs = [
        (classes[i], classes[j], n) for i, row in enumerate(confusion_matrix) for j, n in enumerate(row) if i != j and n
    ]
    return sorted(pairs, key=lambda pair: -pair[2])[:count]


def weakest(per_class: dict[str, dict], count: int = 3) -> list[str]:
    """Names of the classes with the lowest F1 among those that occur, lowest first."""
    occurring = [name for name, numbers in per_class.items() if numbers["support"]]
    return sorted(occurring, key=lambda name: per_class[name]["f1"])[:count]
