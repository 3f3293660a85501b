"""Which run a folder belongs to: whether it can be written, is new, stopped or finished, and what a new run removes."""

from __future__ import annotations

import fnmatch
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from imgcls.errors import RunError, shorten
from imgcls.storage import run_folder
from imgcls.storage.atomic_file import format_bytes
from imgcls.storage.run_folder import RunFolder

OWN_FOLDERS = (run_folder.CHECKPOINTS, run_folder.ADAPTER, run_folder.FOLDS)
# Options of a command, not of its run: they are neither stored nor compared.
NOT_THE_RUN = ("output_dir", "fresh", "config", "traceback", "clear_cache")
# Patterns of options that do not change what a run computes: they are stored, but not compared.
NOT_COMPARED = (
    "cache",
    "cache_gb",
    "compile",
    "cuda_graph",
    "dataloader_*",
    "ddp_*",
    "disable_tqdm",
    "eval_accumulation_steps",
    "hub_*",
    "log_*",
    "logging_*",
    "per_device_eval_batch_size",
    "project",
    "push_to_hub*",
    "report_to",
    "run_name",
    "save_total_limit",
    "trackio*",
    "use_cpu",
)


@dataclass(frozen=True)
class RunClaim:
    """A run that claims a folder: its options and images show whether the files in the folder are its own.

    options: all that are in effect. split: rows of split.csv. searched: names of options that the run determines
    itself, which are not compared.
    """

    folder: RunFolder
    options: Mapping[str, object]
    split: Sequence[tuple]
    searched: Collection[str] = ()

    def take(self, *, fresh: bool, write: bool) -> Literal["new", "stopped", "finished"]:
        """The state of the run in this folder, whose options and images are written if it is new.

        fresh: start over, whatever the folder holds. write: whether this process writes files (rank 0). Raises RunError
        if the folder holds another run, or such files without options.yaml. A run that was stopped before its first
        checkpoint is replaced.
        """
        options = None if fresh else self.folder.read_options()
        if options is None:
            if not fresh:
                self._refuse_foreign_files()
            return self._start(write)
        stored = {tuple(row.values()) for row in self.folder.read_csv(run_folder.SPLIT)}
        changes = self._changed_options(options) + self._changed_images(stored)
        if changes and stored and not self.folder.finished and not self._has_learned():
            return self._start(write)
        if changes:
            raise RunError(
                f"Expected {self.folder.path} to hold this same run, got another: {shorten(changes)}. "
                "Give a new --output_dir, or start over with --fresh."
            )
        return "finished" if self.folder.finished else "stopped"

    def _start(self, write: bool) -> Literal["new"]:
        if write:
            remove_run(self.folder)
            self.folder.write_csv(run_folder.SPLIT, run_folder.SPLIT_COLUMNS, self.split)
            self.folder.write_options(_options_of_run(self.options))
        return "new"

    def _refuse_foreign_files(self) -> None:
        names = (run_folder.WEIGHTS, *OWN_FOLDERS, *run_folder.RESULTS)
        foreign = [name for name in names if (self.folder / name).exists()]
        if foreign:
            raise RunError(
                f"Expected an empty folder or a run's in {self.folder.path}, got {shorten(foreign)} without "
                f"{run_folder.OPTIONS}. Give another --output_dir, or overwrite them with --fresh."
            )

    def _changed_options(self, stored: Mapping[str, object]) -> list[str]:
        before, now = _options_of_run(stored), _options_of_run(self.options)
        return [
            f"{name} {before.get(name)} -> {now.get(name)}"
            for name in {**before, **now}
            if before.get(name) != now.get(name) and name not in self.searched and _is_compared(name)
        ]

    def _changed_images(self, stored: set[tuple]) -> list[str]:
        split = set(self.split)
        if stored == split:
            return []
        return [f"the images: {len(split - stored)} new or moved, {len(stored - split)} gone"]

    def _has_learned(self) -> bool:
        """Whether the folder holds a result of training: a checkpoint, a fold, or a trial of a search."""
        partial = (run_folder.FOLDS, run_folder.STUDY)
        return self.folder.last_checkpoint() is not None or any((self.folder / name).exists() for name in partial)


def _options_of_run(options: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in options.items() if not name.startswith(NOT_THE_RUN)}


def _is_compared(option: str) -> bool:
    return not any(fnmatch.fnmatch(option, pattern) for pattern in NOT_COMPARED)


def check_writable(folder: RunFolder, needed_bytes: int = 0) -> None:
    """Create the folder and a temporary file in it; raises RunError if that fails or the disk is too full.

    A stopped run's checkpoints count as free space.
    """
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder.path) as file:  # a name of its own for each process
            file.write(b"imgcls")
    except FileExistsError as error:
        raise RunError(
            f"Expected a folder for the run, got the file {error.filename or folder.path}. Give another --output_dir."
        ) from error
    except OSError as error:
        raise RunError(
            f"Expected a folder that can be written, got {folder.path}: {error.strerror}. Give another --output_dir."
        ) from error
    free = shutil.disk_usage(folder.path).free
    held = sum(file.stat().st_size for file in (folder / run_folder.CHECKPOINTS).rglob("*"))
    if free + held < needed_bytes:
        raise RunError(
            f"Expected about {format_bytes(needed_bytes)} free for model and checkpoints in {folder.path}, "
            f"got {format_bytes(free)}. Make room, or give an --output_dir on another disk."
        )


def remove_checkpoints(folder: RunFolder) -> None:
    """Remove what only a stopped run needs, to resume."""
    shutil.rmtree(folder / run_folder.CHECKPOINTS, ignore_errors=True)


def remove_weights(folder: RunFolder) -> None:
    """Remove model, adapter and checkpoints, of a run of which only the results are needed (a fold)."""
    (folder / run_folder.WEIGHTS).unlink(missing_ok=True)
    for name in (run_folder.ADAPTER, run_folder.CHECKPOINTS):
        shutil.rmtree(folder / name, ignore_errors=True)


def remove_run(folder: RunFolder) -> None:
    """Remove an earlier run's checkpoints and results, so that none is taken for the new run's.

    Its weights stay until new ones replace them: the new run may start from them. Other figures, and folders called
    validation or export that are not a run's, stay too.
    """
    for name in OWN_FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in run_folder.FIGURE_NAMES:
        (folder / run_folder.FIGURES / f"{name}.png").unlink(missing_ok=True)
    for path in (*(folder / run_folder.VALIDATION).glob("*/"), folder / run_folder.EXPORT):
        is_validation = (path / run_folder.METRICS).is_file() and (path / run_folder.LOGITS).is_file()
        if is_validation or (path / run_folder.EXPORT_RECORD).is_file():
            shutil.rmtree(path, ignore_errors=True)
    # options.yaml last: it tells that the folder is a run's
    for name in (*run_folder.RESULTS, run_folder.SPLIT, run_folder.EXCLUDE, run_folder.CHECK, run_folder.OPTIONS):
        (folder / name).unlink(missing_ok=True)
