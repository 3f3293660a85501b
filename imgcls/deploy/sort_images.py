"""Images copied into a folder a class, never over another file."""

from __future__ import annotations

import filecmp
import itertools
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from imgcls.errors import OptionError

UNSURE = "_unsure"


def check_sort_target(root: str, inputs: Iterable[str]) -> None:
    """Raises OptionError for a folder below one of the inputs: the copies would be read as images."""
    here = Path(root).resolve()
    for name in inputs:
        if os.path.isdir(name) and here.is_relative_to(Path(name).resolve()):
            raise OptionError(f"Expected --sort_into outside of the images, got {root} in {name}. Give another folder.")


def copy_into_class_folders(root: str | Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Copy the images of some rows of `predictions` below `root`: into the folder of their class, unsure ones into
    `_unsure`. Broken images and URLs are not copied. A file of the same name with other content is kept, and the copy
    numbered; the same file again changes nothing, so that a stopped command can go on."""
    for row in rows:
        path = str(row["path"])
        if not row["error"] and os.path.isfile(path):
            _copy(Path(path), Path(root) / (UNSURE if row["unsure"] else _folder_name(str(row["predicted"]))))


def _folder_name(name: str) -> str:
    """A class as the name of a folder: names of the Hub's data sets may hold what a path must not."""
    plain = name.replace("/", "_").replace("\\", "_").replace("\0", "_").strip()
    return f"_{plain}" if plain in ("", ".", "..", UNSURE) else plain


def _copy(file: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f".{os.getpid()}.partial"
    for number in itertools.count(1):
        target = folder / (file.name if number == 1 else f"{file.stem}-{number}{file.suffix}")
        if target.exists() and filecmp.cmp(file, target, shallow=False):
            return
        if not target.exists():
            break
    shutil.copy2(file, beside)
    beside.rename(target)
