"""Every file in a run folder: its name, how it is read, and how it is written whole or not at all."""

from __future__ import annotations

import csv
import fnmatch
import io
import json
import math
import shutil
import tempfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import numpy as np
import yaml

from imgcls.errors import RunError, shorten
from imgcls.storage.atomic_file import atomic_write, format_bytes

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
DIFFERENCES = "differences.csv"  # images of which two models say different things
REPORT = "report.html"
CARD = "README.md"
FIGURES = "figures"
EXPORT, EXPORT_RECORD = "export", "export.json"  # a folder for the model as ONNX, ours with the second in it
VALIDATION = "validation"  # a folder for each labelled folder that validate.py was given
FOLDS = "folds"  # a run folder a fold, without weights once it is finished
OUT_OF_FOLD = "out_of_fold.csv"  # predictions of every image by the fold that did not see it
OUT_OF_FOLD_LOGITS = "out_of_fold.npz"
SEARCH = "search.json"
RECOMMENDATION = "recommendation.json"  # what --model auto measured, and which images on
ADAPTER = "adapter"
CHECKPOINTS = "checkpoints"
PARTIAL = "checkpoints/.partial"  # the checkpoint that is being written
STUDY = "checkpoints/search.log"  # the trials of --search so far
PRECISION = "checkpoints/precision.json"  # whether a CPU's steps are in bf16, once that was tried
BATCH = "checkpoints/batch.json"  # batch and accumulation, once memory was short
WEIGHTS = "model.safetensors"
OWN_FOLDERS = (CHECKPOINTS, ADAPTER, FOLDS)
FIGURE_NAMES = ("curves", "confusion_matrix", "reliability", "coverage")
# the first tells that a run is whole
RESULTS = (
    METRICS, HISTORY, PREDICTIONS, LOGITS, DIAGNOSIS, CALIBRATION, SUSPECTS, REPORT, OUT_OF_FOLD, OUT_OF_FOLD_LOGITS,
    SEARCH,
)  # fmt: skip
# Options that say how a command behaves, not what run it makes: the first are not kept, the second not compared.
NOT_THE_RUN = ("output_dir", "fresh", "config", "traceback", "clear_cache")
NOT_COMPARED = (
    "cache", "cache_gb", "compile", "cuda_graph", "dataloader_*", "ddp_*", "disable_tqdm", "eval_accumulation_steps",
    "hub_*", "log_*", "logging_*", "per_device_eval_batch_size", "project", "push_to_hub*", "report_to", "run_name",
    "save_total_limit", "trackio*", "use_cpu",
)  # fmt: skip
SPLIT_COLUMNS = ("path", "label", "split", "group")
EXCLUDE_COLUMNS = ("path", "reason")
PREDICTION_COLUMNS = ("path", "split", "label", "predicted", "confidence", "correct")
DIFFERENCE_COLUMNS = ("path", "label", "first", "second")
SUSPECT_COLUMNS = ("path", "label", "suggested", "score")


def _finite(content):
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _of_run(options: Mapping) -> dict:
    return {name: value for name, value in options.items() if not name.startswith(NOT_THE_RUN)}


def _is_behaviour(option: str) -> bool:
    return any(fnmatch.fnmatch(option, pattern) for pattern in NOT_COMPARED)


class RunFolder:
    """One run's files under `path`; nothing is created before the first write."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def finished(self) -> bool:
        """metrics.json is written last, so it tells that the run is whole."""
        return (self / METRICS).is_file()

    def check_writable(self, needed_bytes: int = 0) -> None:
        """Create the folder and try a file in it; raises RunError when that fails or the disk is too full."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path) as file:  # of each process its own
                file.write(b"imgcls")
        except FileExistsError as error:
            raise RunError(
                f"Expected a folder for the run, got the file {error.filename or self.path}. Give another --output_dir."
            ) from error
        except OSError as error:
            raise RunError(
                f"Expected a folder that can be written, got {self.path}: {error.strerror}. Give another --output_dir."
            ) from error
        free = shutil.disk_usage(self.path).free
        held = sum(file.stat().st_size for file in (self / CHECKPOINTS).rglob("*"))  # of a stopped run
        if free + held < needed_bytes:
            raise RunError(
                f"Expected about {format_bytes(needed_bytes)} free for model and checkpoints in {self.path}, "
                f"got {format_bytes(free)}. Make room, or give an --output_dir on another disk."
            )

    def write_json(self, name: str, content) -> None:
        """Write JSON, readable by people; NaN and infinity, which JSON lacks, become null."""
        self.write_text(name, json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def read_json(self, name: str):
        """Content of a JSON file; None when it is absent. Raises RunError when it is damaged."""
        try:
            return json.loads((self / name).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            raise RunError(
                f"Expected JSON in {self / name}, got {error}. Remove the file or start over with --fresh."
            ) from error

    def write_text(self, name: str, text: str) -> None:
        """Text as UTF-8; what of a file's name is not Unicode is shown by its code."""
        self.write_bytes(name, text.encode(errors="backslashreplace"))

    def write_bytes(self, name: str, content: bytes) -> None:
        """A file of another kind."""
        with atomic_write(self / name) as file:
            file.write(content)

    def write_lines(self, name: str, entries: Iterable[dict]) -> None:
        """JSON lines, one entry each."""
        with atomic_write(self / name) as file:
            for entry in entries:
                file.write((json.dumps(entry, ensure_ascii=False) + "\n").encode())

    def read_lines(self, name: str) -> list[dict]:
        """Entries of a file of JSON lines; an absent file has none."""
        try:
            return [json.loads(line) for line in (self / name).read_text(encoding="utf-8").splitlines()]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def write_csv(self, name: str, columns: tuple[str, ...], rows: Iterable[tuple]) -> None:
        """CSV with a header, UTF-8, quoted where needed."""
        with atomic_write(self / name) as file:
            text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")  # as on disk
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(rows)
            text.detach()  # flushes; the file itself is closed by whole_file

    def read_csv(self, name: str) -> list[dict[str, str]]:
        """Rows as dicts; an absent file has none."""
        try:
            with open(self / name, encoding="utf-8", errors="surrogateescape", newline="") as file:
                return list(csv.DictReader(file))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def write_options(self, options: dict) -> None:
        """options.yaml, one option a line, usable again as --config."""
        self.write_bytes(OPTIONS, yaml.safe_dump(options, sort_keys=False, allow_unicode=True).encode())

    def read_options(self) -> dict | None:
        """Options of the run that this folder holds; None when it holds none."""
        try:
            return yaml.safe_load((self / OPTIONS).read_text(encoding="utf-8")) or {}
        except (FileNotFoundError, NotADirectoryError):
            return None
        except yaml.YAMLError as error:
            raise RunError(f"Expected YAML in {self / OPTIONS}, got {error}. Start over with --fresh.") from error

    def write_logits(self, name: str = LOGITS, **splits: np.ndarray) -> None:
        """logits.npz: float32 (N, K) for each evaluated split, in the order of predictions.csv."""
        with atomic_write(self / name) as file:
            np.savez_compressed(file, **splits)

    def read_logits(self, name: str = LOGITS) -> dict[str, np.ndarray]:
        """Split -> float32 (N, K), in the order of predictions.csv; an absent file has none."""
        try:
            with np.load(self / name) as found:
                return dict(found)
        except (FileNotFoundError, NotADirectoryError):
            return {}

    def last_checkpoint(self) -> Path | None:
        """The whole checkpoint with the most steps; those still being written have another name."""
        found = [p for p in (self / CHECKPOINTS).glob("checkpoint-*") if p.name[11:].isdigit()]
        return max(found, key=lambda p: int(p.name[11:]), default=None)

    def claim(
        self, options: dict, split: list[tuple], *, fresh: bool, write: bool, found_later: Collection[str] = ()
    ) -> str:
        """Whose folder is this? "new", "stopped" or "finished" when it is this very run's; else RunError.

        options: all in force. split: rows of split.csv. write: whether this process writes files (rank 0).
        found_later: options that the run itself finds out, and that so tell nothing.
        """
        options = _of_run(options)
        before = None if fresh else self.read_options()
        if before is None:
            foreign = [name for name in (WEIGHTS, *OWN_FOLDERS, *RESULTS) if (self / name).exists()]
            if foreign and not fresh:
                raise RunError(
                    f"Expected an empty folder or a run's in {self.path}, got {shorten(foreign)} without {OPTIONS}. "
                    "Give another --output_dir, or overwrite them with --fresh."
                )
            if write:
                self.clear()
                self.write_csv(SPLIT, SPLIT_COLUMNS, split)
                self.write_options(options)
            return "new"
        before = _of_run(before)
        changed = [
            f"{k} {before.get(k)} -> {options.get(k)}"
            for k in {**before, **options}
            if before.get(k) != options.get(k) and not _is_behaviour(k) and k not in found_later
        ]
        known = {tuple(row.values()) for row in self.read_csv(SPLIT)}
        if known != set(split):
            added, gone = len(set(split) - known), len(known - set(split))
            changed.append(f"the images: {added} new or moved, {gone} gone")
        learned = self.last_checkpoint() or (self / FOLDS).exists() or (self / STUDY).exists()
        if changed and known and not self.finished and not learned:
            return self.claim(options, split, fresh=True, write=write)  # that run ended before anything was learned
        if changed:
            raise RunError(
                f"Expected {self.path} to hold this same run, got another: {shorten(changed)}. "
                "Give a new --output_dir, or start over with --fresh."
            )
        return "finished" if self.finished else "stopped"

    def drop_checkpoints(self) -> None:
        """Checkpoints are for going on; a finished run needs none."""
        shutil.rmtree(self / CHECKPOINTS, ignore_errors=True)

    def drop_weights(self) -> None:
        """Of a fold only the numbers are wanted."""
        (self / WEIGHTS).unlink(missing_ok=True)
        for name in (ADAPTER, CHECKPOINTS):
            shutil.rmtree(self / name, ignore_errors=True)

    def clear(self) -> None:
        """Remove a former run's checkpoints and results, so that nothing of it is taken for the new one's.

        Its weights stay until new ones replace them: the new run may start from them.
        """
        for name in OWN_FOLDERS:
            shutil.rmtree(self / name, ignore_errors=True)
        for name in FIGURE_NAMES:  # others' figures, and folders called validation or export, stay
            (self / FIGURES / f"{name}.png").unlink(missing_ok=True)
        for folder in (*(self / VALIDATION).glob("*/"), self / EXPORT):
            if (folder / EXPORT_RECORD).is_file() or ((folder / METRICS).is_file() and (folder / LOGITS).is_file()):
                shutil.rmtree(folder, ignore_errors=True)
        # options last: they tell that the folder is a run's
        for name in (*RESULTS, SPLIT, EXCLUDE, CHECK, OPTIONS):
            (self / name).unlink(missing_ok=True)
