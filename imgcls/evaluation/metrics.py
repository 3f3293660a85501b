"""Logits and labels -> numbers, in a stream, as an `evaluate` module that needs neither network nor files."""

from __future__ import annotations

import math
from collections.abc import Sequence

import evaluate
import numpy as np
from datasets import Features, Value
from datasets import Sequence as ListOf

from imgcls.errors import MetricError, shorten
from imgcls.evaluation.intervals import macro_intervals, wilson_interval
from imgcls.evaluation.scores import ECE_BINS, calibration_bins, calibration_gap, log_softmax, top_k_hits


class ImageClassification(evaluate.EvaluationModule):
    """Every number of a metrics.json part, from sufficient statistics: K x K counts and a few sums.

    Memory does not grow with the number of images, whatever is fed with add_batch. Ties go to the lower class.
    Logits that are not finite count as wrong (in the confusion matrix as the class after the true one) with an
    infinite loss; they have no confidence, so ECE leaves them out. `non_finite` then tells how many. A diverged
    model so shows in the numbers and does not end the training that is being evaluated.
    """

    def __init__(self, classes: Sequence[str]):
        # The base class's own set-up makes a cache folder for inputs that are not kept here; only its description
        # of the module (name, features) is wanted, which repr() and evaluate.combine() read.
        evaluate.module.EvaluationModuleInfoMixin.__init__(self, self._info())
        self.classes = list(classes)
        if len(set(self.classes)) < max(2, len(self.classes)):
            raise MetricError(f"Expected two classes or more, each named once, got {shorten(self.classes)}.")
        self._reset()

    def _info(self) -> evaluate.EvaluationModuleInfo:
        return evaluate.EvaluationModuleInfo(
            description="Accuracy, loss, calibration and errors by class of an image classifier, from its logits.",
            citation="",
            features=Features({"predictions": ListOf(Value("float64")), "references": Value("int64")}),
            module_name="image_classification",
        )

    def __len__(self) -> int:
        return int(self._matrix.sum())

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
        labels = labels.astype(np.int64)  # uint8 + 1 would wrap round, uint8 % 1000 is an error
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
        self._bins += calibration_bins(confidence, predicted == labels)

    def add(self, *, prediction, reference) -> None:
        """Add one image: logits (K,) and its label."""
        self.add_batch(predictions=_array(prediction)[None], references=np.asarray([reference]))

    def compute(self, *, predictions=None, references=None) -> dict:
        """All numbers of what was added (and of what is given here), as plain Python values; starts anew then.

        Raises MetricError when nothing was added. In per_class, precision is None for a class never predicted and
        recall for one that never occurs; F1 is None when it is neither. macro_f1 averages F1 over the classes
        that occur or are predicted; balanced_accuracy averages recall over those that occur (both as scikit-learn).
        """
        if predictions is not None or references is not None:
            self.add_batch(predictions=predictions, references=references)
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


def compute_metrics(logits: np.ndarray, labels: Sequence[int], classes: Sequence[str]) -> dict:
    """A part of metrics.json: all numbers of these images, with intervals of the macro figures too."""
    numbers = ImageClassification(classes).compute(predictions=logits, references=np.asarray(labels))
    return numbers | macro_intervals(numbers["confusion_matrix"])


def _array(values) -> np.ndarray:
    """numpy or torch (any device and float type) -> numpy."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.double().numpy() if values.is_floating_point() else values.numpy()
    return np.asarray(values)
