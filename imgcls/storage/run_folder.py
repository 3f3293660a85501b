"""The files of a run folder: their names, and how they are read and written; each is written whole or not at all."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from imgcls.config.fields import RENAMED_OPTIONS
from imgcls.errors import RunError
from imgcls.storage.atomic_file import atomic_write, atomic_write_text

OPTIONS = "options.yaml"
SPLIT = "split.csv"
EXCLUDE = "exclude.csv"
CHECK = "check.json"
CHECK_PAGE = "check.html"
HISTORY = "history.jsonl"
METRICS = "metrics.json"
PREDICTIONS = "predictions.csv"
LOGITS = "logits.npz"
DIAGNOSIS = "diagnosis.json"
CALIBRATION = "calibration.json"
SUSPECTS = "suspects.csv"
DIFFERENCES = "differences.csv"  # images that two models classify differently
REPORT = "report.html"
CARD = "README.md"
FIGURES = "figures"
EXPORT = "export"  # the model as ONNX; written by imgcls if it holds the next file
EXPORT_RECORD = "export.json"
VALIDATION = "validation"  # a folder for each labelled data set that validate.py evaluated the run on
FOLDS = "folds"  # a run folder for each fold, without weights once it is finished
OUT_OF_FOLD = "out_of_fold.csv"  # predictions for every image by the model of the fold that holds it out
OUT_OF_FOLD_LOGITS = "out_of_fold.npz"
SEARCH = "search.json"
RECOMMENDATION = "recommendation.json"  # what --model auto measured, and on which images
ADAPTER = "adapter"
CHECKPOINTS = "checkpoints"
PARTIAL = "checkpoints/.partial"  # the checkpoint that is being written
STUDY = "checkpoints/search.log"  # the finished trials of --search
PRECISION = "checkpoints/precision.json"  # whether training steps use bf16 on this CPU, once that was measured
BATCH = "checkpoints/batch.json"  # batch size and accumulation steps, once a larger batch did not fit into memory
WEIGHTS = "model.safetensors"
FIGURE_NAMES = ("curves", "confusion_matrix", "reliability", "coverage")
# What a finished run leaves. The first, which marks the run as finished, is written after the others and removed first;
# of these files only report.html comes later.
RESULTS = (
    METRICS,
    HISTORY,
    PREDICTIONS,
    LOGITS,
    DIAGNOSIS,
    CALIBRATION,
    SUSPECTS,
    REPORT,
    OUT_OF_FOLD,
    OUT_OF_FOLD_LOGITS,
    SEARCH,
)
SPLIT_COLUMNS = ("path", "label", "split", "group")
EXCLUDE_COLUMNS = ("path", "reason")
PREDICTION_COLUMNS = ("path", "split", "label", "predicted", "confidence", "correct")
DIFFERENCE_COLUMNS = ("path", "label", "first", "second")
SUSPECT_COLUMNS = ("path", "label", "suggested", "score")


class RunFolder:
    """The files of a run below `path`; `run / NAME` is the path of one. Nothing is created before the first write."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def finished(self) -> bool:
        """Whether the run is complete: metrics.json, which is written after the other results, exists."""
        return (self / METRICS).is_file()

    def write_json(self, name: str, content: Any) -> None:
        """Write indented JSON; NaN and infinite numbers, which JSON lacks, become null."""
        self.write_text(name, json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def read_json(self, name: str) -> Any:
        """Content of a JSON file; None if it does not exist. Raises RunError if it is damaged."""
        try:
            return json.loads((self / name).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            raise RunError(
                f"Expected JSON in {self / name}, got {error}. Remove the file or start over with --fresh."
            ) from error

    def write_text(self, name: str, text: str) -> None:
        """Write text as UTF-8; bytes of file names that are not valid UTF-8 are written as escapes, such as \\udcff."""
        self.write_bytes(name, text.encode(errors="backslashreplace"))

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a file of any kind."""
        with atomic_write(self / name) as file:
            file.write(content)

    def write_lines(self, name: str, entries: Iterable[dict]) -> None:
        """Write JSON lines, one entry a line."""
        with atomic_write(self / name) as file:
            for entry in entries:
                file.write((json.dumps(entry, ensure_ascii=False) + "\n").encode())

    def read_lines(self, name: str) -> list[dict]:
        """Entries of a file of JSON lines; none if it does not exist."""
        try:
            return [json.loads(line) for line in (self / name).read_text(encoding="utf-8").splitlines()]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def write_csv(self, name: str, columns: Sequence[str], rows: Iterable[Sequence]) -> None:
        """Write CSV with a header, in UTF-8, quoted where needed; invalid bytes of file names are kept."""
        with atomic_write_text(self / name) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(rows)

    def read_csv(self, name: str) -> list[dict[str, str]]:
        """Rows of a CSV file as dicts by column; none if it does not exist."""
        try:
            with open(self / name, encoding="utf-8", errors="surrogateescape", newline="") as file:
                return list(csv.DictReader(file))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def write_options(self, options: Mapping[str, object]) -> None:
        """Write options.yaml, one option a line; the file can be used as --config."""
        self.write_bytes(OPTIONS, yaml.safe_dump(dict(options), sort_keys=False, allow_unicode=True).encode())

    def read_options(self) -> dict | None:
        """Options of the folder's run; None if it holds no run. Raises RunError if the file is damaged."""
        try:
            options = yaml.safe_load((self / OPTIONS).read_text(encoding="utf-8")) or {}
            return {RENAMED_OPTIONS.get(name, name): value for name, value in options.items()}
        except (FileNotFoundError, NotADirectoryError):
            return None
        except yaml.YAMLError as error:
            raise RunError(f"Expected YAML in {self / OPTIONS}, got {error}. Start over with --fresh.") from error

    def write_logits(self, name: str = LOGITS, **splits: np.ndarray) -> None:
        """Write logits, float32 (images, classes), of each split, in the order of predictions.csv."""
        arrays: dict[str, Any] = dict(splits)
        with atomic_write(self / name) as file:
            np.savez_compressed(file, **arrays)

    def read_logits(self, name: str = LOGITS) -> dict[str, np.ndarray]:
        """Logits by split, float32 (images, classes), in the order of predictions.csv; none if there is no file."""
        try:
            with np.load(self / name) as arrays:
                return dict(arrays)
        except (FileNotFoundError, NotADirectoryError):
            return {}

    def last_checkpoint(self) -> Path | None:
        """The complete checkpoint with the most steps; one that is still being written has another name."""
        steps = {
            int(step): folder
            for folder in (self / CHECKPOINTS).glob("checkpoint-*")
            if (step := folder.name.removeprefix("checkpoint-")).isdigit()
        }
        return steps[max(steps)] if steps else None


def _finite(content: Any) -> Any:
    """Plain values in which NaN and infinite numbers are None."""
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
