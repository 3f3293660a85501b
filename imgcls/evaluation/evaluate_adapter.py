"""The classification metrics as a module of Hugging Face `evaluate`, which needs neither network nor cache files."""

from __future__ import annotations

from collections.abc import Sequence

import evaluate
from datasets import Features, Value
from datasets import Sequence as ListOf
from numpy.typing import ArrayLike

from imgcls.evaluation.metrics import ClassificationMetrics, to_array


class ImageClassification(evaluate.EvaluationModule):
    """`ClassificationMetrics` with the interface of `evaluate`: `add_batch`, `add`, `compute`."""

    def __init__(self, classes: Sequence[str]):
        # The base class's constructor would create a cache folder for inputs, which are not stored here. Only its
        # description of the module (name, features) is needed, by repr() and evaluate.combine().
        evaluate.module.EvaluationModuleInfoMixin.__init__(self, self._info())
        self.metrics = ClassificationMetrics(classes)

    def _info(self) -> evaluate.EvaluationModuleInfo:
        return evaluate.EvaluationModuleInfo(
            description="Accuracy, loss, calibration and per-class errors of an image classifier, from its logits.",
            citation="",
            features=Features({"predictions": ListOf(Value("float64")), "references": Value("int64")}),
            module_name="image_classification",
        )

    def __len__(self) -> int:
        return len(self.metrics)

    def add_batch(
        self, *, predictions: ArrayLike | None = None, references: ArrayLike | None = None, **kwargs: object
    ) -> None:
        """Add images: logits (N, K) and labels (N,), see `ClassificationMetrics.add_batch`."""
        self.metrics.add_batch(to_array(predictions), to_array(references))

    def add(self, *, prediction: ArrayLike | None = None, reference: ArrayLike | None = None, **kwargs: object) -> None:
        """Add one image: logits (K,) and its label."""
        self.metrics.add_batch(to_array(prediction)[None], to_array(reference)[None])

    def compute(
        self, *, predictions: ArrayLike | None = None, references: ArrayLike | None = None, **kwargs: object
    ) -> dict:
        """All metrics of the images added so far and of those passed here; then resets."""
        if predictions is not None or references is not None:
            self.add_batch(predictions=predictions, references=references)
        return self.metrics.compute()
