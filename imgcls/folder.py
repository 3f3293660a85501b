"""Class folders on disk: which images there are, their classes, and the splits they came in."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from imgcls.errors import FolderError, nearest, shorten
from imgcls.images import is_image
from imgcls.listing import EMPTY, HIDDEN, LOOSE, NO_IMAGE, OUTSIDE, SPLIT_OF, ImageFile, Listing, check_classes

_CLUTTER = {"__MACOSX", "Thumbs.db", "desktop.ini", "@eaDir", "$RECYCLE.BIN"}
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")


def scan(root: str | Path) -> Listing:
    """Class folders below `root`, in sorted order: one folder a class, whatever lies below it belongs to it.

    With a `train` folder that itself holds class folders, its siblings named like splits are splits; any other
    folder called train, val or test is a class. Raises FolderError when there are not two classes with images.
    """
    root = Path(root)
    listing = Listing(root)
    _check_folder(root)
    folders = {}  # class or split name -> relative paths of the images below it
    for entry in _entries(root, listing.skipped):
        if not _is_folder(entry):
            listing.skipped[LOOSE if is_image(entry.path) else NO_IMAGE] += 1
            continue
        files = _images_below(Path(entry.path), root, listing.skipped)
        if files:
            folders[entry.name] = files
        else:
            listing.skipped[EMPTY] += 1
    splits = _split_folders(folders, root)
    if splits is None:
        listing.files = [ImageFile(path, name) for name, paths in folders.items() for path in paths]
    else:
        listing.files = _split_files(splits, folders, listing.skipped)
    check_classes(listing, root)
    return listing


def _check_folder(root: Path) -> None:
    if root.is_file():
        archive = root.suffix.lower() in _ARCHIVES
        cure = "Unpack it and give the folder." if archive else "Give the folder that holds the class folders."
        raise FolderError(f"Expected a folder of class folders or a CSV, got the file {root}. {cure}")
    if not root.is_dir():
        beside = [p.name for p in root.parent.iterdir() if p.is_dir()] if root.parent.is_dir() else []
        close = f" Nearest in {root.parent}: {', '.join(nearest(root.name, beside))}." if beside else ""
        raise FolderError(f"Expected a folder of class folders, got {root}, which does not exist.{close}")


def _entries(folder: Path, skipped: Counter) -> list[os.DirEntry]:
    """Entries in sorted order, hidden and system ones counted and left out."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda e: e.name)
    except OSError as error:
        raise FolderError(
            f"Expected a folder that can be read, got {folder}: {error.strerror}. Change its permissions."
        ) from error
    visible = [e for e in entries if not e.name.startswith(".") and e.name not in _CLUTTER]
    skipped[HIDDEN] += len(entries) - len(visible)
    return visible


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, a share that is gone
        return False


def _images_below(folder: Path, root: Path, skipped: Counter) -> list[str]:
    """Sorted relative paths of all images below a folder; links to folders are followed, but never upwards."""
    above = Path(os.path.realpath(folder)).parents  # from there the class would get the images of all others
    found, seen, todo = [], {str(p) for p in above}, [folder]
    while todo:
        here = todo.pop()
        real = os.path.realpath(here)
        if real in seen:
            continue
        seen.add(real)
        for entry in _entries(here, skipped):
            if _is_folder(entry):
                todo.append(Path(entry.path))
            elif is_image(entry.path):
                found.append(Path(entry.path).relative_to(root).as_posix())
            else:
                skipped[NO_IMAGE] += 1
    return sorted(found)


def _class_names(paths: list[str]) -> set[str]:
    """Second part of each path: the class, if the first part is a split."""
    return {p.split("/")[1] for p in paths if p.count("/") >= 2}


def _split_folders(folders: dict[str, list[str]], root: Path) -> dict[str, str] | None:
    """split -> folder name when the folders are splits; None when they are classes."""
    splits: dict[str, str] = {}
    for name in folders:
        split = SPLIT_OF.get(name.lower())
        if split and split in splits and "train" in {SPLIT_OF.get(n.lower()) for n in folders}:
            raise FolderError(
                f"Expected one folder for {split}, got {splits[split]} and {name} in {root}. "
                "Rename or remove one of them."
            )
        if split:
            splits[split] = name
    classes = {split: _class_names(folders[name]) for split, name in splits.items()}
    if "train" not in splits:
        if len(splits) == len(folders) == 2 and len(classes["validation"] & classes["test"]) >= 2:
            raise FolderError(
                f"Expected a train folder beside {shorten(folders)}, got none in {root}. Rename the one to train on."
            )
        return None
    if not classes["train"] or any(p.count("/") == 1 for p in folders[splits["train"]]):
        return None  # images lie directly in it: a class called train
    shared = any(classes["train"] & classes[s] for s in splits if s != "train")
    return splits if shared or len(splits) == len(folders) else None


def _split_files(splits: dict[str, str], folders: dict[str, list[str]], skipped: Counter) -> list[ImageFile]:
    files = []
    for split in ("train", "validation", "test"):
        for path in folders.get(splits.get(split, ""), []):
            if path.count("/") >= 2:
                files.append(ImageFile(path, path.split("/")[1], split))
            else:
                skipped[LOOSE] += 1
    skipped[OUTSIDE] += sum(len(paths) for name, paths in folders.items() if name not in splits.values())
    return files
