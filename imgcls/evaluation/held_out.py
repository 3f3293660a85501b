"""Predictions for images that a model was not trained on, as a run folder holds them, and the label errors in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from imgcls.evaluation import label_errors
from imgcls.evaluation.calibration import probabilities
from imgcls.storage import run_folder
from imgcls.storage.run_folder import RunFolder

CROSS_VALIDATED = "cross-validated"


@dataclass(frozen=True)
class HeldOutPredictions:
    """Logits for labelled images.

    name: of the split or of the data. paths: N, relative to the data folder. labels: int (N,). logits: float (N, K).
    """

    name: str
    classes: Sequence[str]
    paths: Sequence[str]
    labels: np.ndarray
    logits: np.ndarray

    @cached_property
    def predicted(self) -> np.ndarray:
        """Index of the most probable class of each image, int (N,)."""
        return self.logits.argmax(1)


def read_predictions(run: RunFolder, classes: Sequence[str]) -> list[HeldOutPredictions]:
    """What predictions.csv and logits.npz hold, one entry a split; empty when they are absent."""
    rows: dict[str, list[Mapping[str, str]]] = {}
    for row in run.read_csv(run_folder.PREDICTIONS):
        rows.setdefault(row["split"], []).append(row)
    logits = run.read_logits().values()  # in the order of the rows
    return [_predictions(name, classes, rows[name], part) for name, part in zip(rows, logits, strict=True)]


def read_out_of_fold(run: RunFolder, classes: Sequence[str]) -> HeldOutPredictions | None:
    """Every image as predicted by the fold that was not trained on it; None without --folds."""
    rows = run.read_csv(run_folder.OUT_OF_FOLD)
    if not rows:
        return None
    logits = run.read_logits(run_folder.OUT_OF_FOLD_LOGITS)["out_of_fold"]
    return _predictions(CROSS_VALIDATED, classes, rows, logits)


def _predictions(
    name: str, classes: Sequence[str], rows: Sequence[Mapping[str, str]], logits: np.ndarray
) -> HeldOutPredictions:
    index = {label: i for i, label in enumerate(classes)}
    labels = np.array([index[row["label"]] for row in rows])
    return HeldOutPredictions(name, classes, [row["path"] for row in rows], labels, logits)


def find_suspects(
    predictions: HeldOutPredictions, temperature: float, probes: np.ndarray | None = None
) -> list[dict[str, str]]:
    """Rows of suspects.csv, most suspicious first.

    probes: logits float (N, M, K) of M other models that were not trained on the images.
    """
    opinions = [probabilities(predictions.logits, temperature)]
    if probes is not None:
        opinions += [probabilities(probes[:, m]) for m in range(probes.shape[1])]
    paths, labels, classes = predictions.paths, predictions.labels, predictions.classes
    return [
        {"path": paths[i], "label": classes[int(labels[i])], "suggested": classes[suggested], "score": f"{score:.6f}"}
        for i, suggested, score in label_errors.find_label_errors(labels, opinions)
    ]


def write_suspects(folder: RunFolder, rows: Sequence[Mapping[str, str]]) -> None:
    """Write suspects.csv."""
    folder.write_csv(run_folder.SUSPECTS, run_folder.SUSPECT_COLUMNS, (tuple(row.values()) for row in rows))


def write_training_suspects(run: RunFolder, classes: Sequence[str]) -> None:
    """Write suspects.csv of a training from its other files: from the folds if there are any, else from all splits."""
    predictions = read_out_of_fold(run, classes) or _joined(read_predictions(run, classes))
    probes = run.read_logits(run_folder.OUT_OF_FOLD_LOGITS).get("probes")
    temperature = run.read_json(run_folder.CALIBRATION)["temperature"]
    write_suspects(run, find_suspects(predictions, temperature, probes))


def write_evaluation_suspects(folder: RunFolder) -> None:
    """Write suspects.csv of an evaluation from its other files."""
    metrics = folder.read_json(run_folder.METRICS)
    (predictions,) = read_predictions(folder, metrics["classes"])
    write_suspects(folder, find_suspects(predictions, metrics["calibration"]["temperature"]))


def _joined(parts: Sequence[HeldOutPredictions]) -> HeldOutPredictions:
    return HeldOutPredictions(
        "all",
        parts[0].classes,
        [path for part in parts for path in part.paths],
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.logits for part in parts]),
    )
