"""Predictions of a trained model as objects, table rows and text, and copies of the images by predicted class."""

from __future__ import annotations

import filecmp
import itertools
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imgcls.data import decoding
from imgcls.errors import ImageError
from imgcls.evaluation.calibration import probabilities

UNSURE_FOLDER = "_unsure"


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image.

    label: most probable class. confidence: its calibrated probability, 0 to 1. uncertain: whether confidence is below
    the threshold; None without one. top: the most probable classes with their probabilities, highest first. path: file
    of the image, None for an image in memory. error: why there is no prediction; label, confidence and uncertain are
    None then.
    """

    label: str | None
    confidence: float | None
    uncertain: bool | None
    top: list[tuple[str, float]]
    path: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class PredictionFormatter:
    """Turns logits into predictions, table rows and text.

    temperature: divisor of the logits. threshold: confidence below which a prediction is uncertain; None if not known.
    top_k: number of classes listed.
    """

    classes: Sequence[str]
    temperature: float = 1.0
    threshold: float | None = None
    top_k: int = 1

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of a row: path, class, confidence, whether unsure, further classes, and the error."""
        more = [f"{name}_{k}" for k in range(2, self.top_k + 1) for name in ("predicted", "confidence")]
        return ("path", "predicted", "confidence", "unsure", *more, "error")

    def predictions(
        self, paths: Sequence[str | None], logits: np.ndarray, errors: Mapping[int, ImageError]
    ) -> list[Prediction]:
        """One prediction per path. logits: (n, K) of the readable images. errors: position among the paths -> error."""
        readable = iter(probabilities(logits, self.temperature)) if len(logits) else iter(())
        return [
            _failed(path, decoding.short_reason(errors[i])) if i in errors else self._prediction(path, next(readable))
            for i, path in enumerate(paths)
        ]

    def rows(self, paths: Sequence[str], logits: np.ndarray, errors: Mapping[int, ImageError]) -> list[dict]:
        """One table row per path; the parameters are those of `predictions`."""
        return [self.row(prediction) for prediction in self.predictions(paths, logits, errors)]

    def row(self, prediction: Prediction) -> dict:
        """A prediction as a table row: column -> value, "" where there is none."""
        row: dict = dict.fromkeys(self.columns, "")
        if prediction.error:
            return row | {"path": prediction.path, "error": prediction.error}
        row |= {"path": prediction.path, "unsure": int(bool(prediction.uncertain))}
        for (label, probability), suffix in zip(prediction.top, self._suffixes, strict=False):
            row |= {f"predicted{suffix}": label, f"confidence{suffix}": round(probability, 6)}
        return row

    def line(self, row: Mapping[str, object]) -> str:
        """A row as text for the terminal."""
        if row["error"]:
            return f"{row['path']}  could not be read: {row['error']}"
        classes = "  ".join(f"{row[f'predicted{s}']} {row[f'confidence{s}']:.3f}" for s in self._suffixes)
        return f"{row['path']}  {classes}{'  unsure' if row['unsure'] else ''}"

    @property
    def _suffixes(self) -> list[str]:
        """Suffixes of the columns of the listed classes."""
        return ["", *(f"_{k}" for k in range(2, self.top_k + 1))]

    def _prediction(self, path: str | None, p: np.ndarray) -> Prediction:
        if not np.isfinite(p).all():
            return _failed(path, "the model's output is NaN or infinite")
        top = [(self.classes[int(i)], float(p[i])) for i in np.argsort(-p, kind="stable")[: self.top_k]]
        label, confidence = top[0]
        uncertain = None if self.threshold is None else confidence < self.threshold
        return Prediction(label, confidence, uncertain, top, path)


def _failed(path: str | None, reason: str) -> Prediction:
    return Prediction(None, None, None, [], path, reason)


def prediction_summary(counts: Mapping[str, int], resumed: int, out: str | None) -> str:
    """One line of numbers. counts: "sure", "unsure" and "broken" images; resumed: images of earlier commands."""
    total = sum(counts.values())
    parts = [f"{total:,} {'more ' if resumed else ''}image{'' if total == 1 else 's'}"]
    if resumed:
        parts[0] += f" after {resumed:,}"
    if counts.get("unsure"):
        parts.append(f"{counts['unsure']:,} unsure")
    if counts.get("broken"):
        parts.append(f"{counts['broken']:,} that could not be read")
    return ", ".join(parts) + (f": {out}" if out else "")


def copy_into_class_folders(root: str | Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Copy the images of table rows into `root`/CLASS, unsure ones into `root`/_unsure.

    Unreadable images and URLs are not copied. If another file has the same name, the copy gets a number. A file that is
    already there is not copied again, so a stopped command can resume.
    """
    for row in rows:
        path = str(row["path"])
        if not row["error"] and os.path.isfile(path):
            folder = UNSURE_FOLDER if row["unsure"] else class_folder_name(str(row["predicted"]))
            _copy(Path(path), Path(root) / folder)


def class_folder_name(label: str) -> str:
    """A class as a folder name: classes of Hub datasets may contain characters that a path must not."""
    name = label.replace("/", "_").replace("\\", "_").replace("\0", "_").strip()
    return f"_{name}" if name in ("", ".", "..", UNSURE_FOLDER) else name


def _copy(file: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{os.getpid()}.partial"
    for number in itertools.count(1):
        target = folder / (file.name if number == 1 else f"{file.stem}-{number}{file.suffix}")
        if not target.exists():
            shutil.copy2(file, partial)
            partial.rename(target)
            return
        if filecmp.cmp(file, target, shallow=False):
            return
