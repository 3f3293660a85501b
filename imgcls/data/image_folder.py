"""Scans class folders on disk: images, their classes, and splits if there are any."""

from __future__ import annotations

import os
from pathlib import Path

from imgcls.data.decoding import is_image
from imgcls.data.listing import (
    EMPTY,
    FORBIDDEN,
    HIDDEN,
    LOOSE,
    NO_IMAGE,
    OUTSIDE,
    SPECIAL,
    SPLIT_OF,
    ImageFile,
    Listing,
    check_classes,
    is_clutter,
)
from imgcls.errors import FolderError, nearest, shorten

_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")


def scan_image_folder(root: str | Path, *, strict: bool = True) -> Listing:
    """Class folders below `root`, sorted: one folder per class, with all images below it.

    If there is a `train` folder that contains class folders, it and its siblings named like splits are splits; any
    other folder called train, val or test is a class. Raises FolderError if `root` is not a folder or its splits are
    ambiguous; when strict, also without two classes with images and for folders without read permission.
    """
    root = Path(root)
    listing = Listing(root)
    _check_folder(root)
    walk = _Walk(listing, strict)
    folders = {}  # class or split name -> relative paths of the images below it
    for entry in walk.entries(str(root), ""):
        if not _is_folder(entry):
            listing.skipped[_kind(entry) or LOOSE].append(entry.name)
            continue
        files = walk.images_below(entry)
        if files:
            folders[entry.name] = files
        elif entry.name not in listing.skipped[FORBIDDEN]:
            listing.skipped[EMPTY].append(entry.name)
    splits = _split_folders(folders, root)
    if splits is None:
        listing.files = [ImageFile(path, name) for name, paths in folders.items() for path in paths]
    else:
        listing.files = _split_files(splits, folders, listing.skipped)
    if strict:
        check_classes(listing, root)
    return listing


def _check_folder(root: Path) -> None:
    if root.is_file():
        archive = root.suffix.lower() in _ARCHIVES
        cure = "Unpack it and give the folder." if archive else "Give the folder that contains the class folders."
        raise FolderError(f"Expected a folder of class folders or a CSV, got the file {root}. {cure}")
    if not root.is_dir():
        siblings = [p.name for p in root.parent.iterdir() if p.is_dir()] if root.parent.is_dir() else []
        close = f" Nearest in {root.parent}: {', '.join(nearest(root.name, siblings))}." if siblings else ""
        raise FolderError(f"Expected a folder of class folders, got {root}, which does not exist.{close}")


class _Walk:
    """Walks folders, adds entries that are not images to `listing.skipped`; raises FolderError only when strict."""

    def __init__(self, listing: Listing, strict: bool):
        self.skipped, self.strict = listing.skipped, strict

    def entries(self, folder: str, within: str) -> list[os.DirEntry]:
        """Sorted entries without hidden and system files. within: path of the folder relative to the root, "a/b/"."""
        try:
            with os.scandir(folder) as unsorted:
                entries = sorted(unsorted, key=lambda e: e.name)
        except OSError as error:
            if self.strict:
                raise FolderError(
                    f"Expected a folder that can be read, got {folder}: {error.strerror}. Change its permissions."
                ) from error
            self.skipped[FORBIDDEN].append(within.rstrip("/") or ".")
            return []
        visible = []
        for entry in entries:
            if is_clutter(entry.name):
                self.skipped[HIDDEN].append(within + entry.name)
            else:
                visible.append(entry)
        return visible

    def images_below(self, top: os.DirEntry) -> list[str]:
        """Sorted relative paths of all images below a folder; links are followed, except to a folder above."""
        above = Path(os.path.realpath(top.path)).parents  # a link there would give the class all other images
        images, visited, todo = [], {str(p) for p in above}, [(top.path, f"{top.name}/")]
        while todo:
            folder, within = todo.pop()
            real = os.path.realpath(folder)
            if real in visited:
                continue
            visited.add(real)
            for entry in self.entries(folder, within):
                if _is_folder(entry):
                    todo.append((entry.path, f"{within}{entry.name}/"))
                    continue
                kind = _kind(entry)
                if kind is None:
                    images.append(within + entry.name)
                else:
                    self.skipped[kind].append(within + entry.name)
        return sorted(images)


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or a network folder that is gone
        return False


def _kind(entry: os.DirEntry) -> str | None:
    """Why a file is skipped; None for images, including broken links with an image suffix."""
    is_regular = entry.is_file(follow_symlinks=False)  # known from the directory, without access to the file
    if not is_regular and os.path.exists(entry.path) and not os.path.isfile(entry.path):
        return SPECIAL  # a pipe or a device: reading it would never end
    return None if is_image(entry.path) else NO_IMAGE


def _class_names(paths: list[str]) -> set[str]:
    """Second part of each path: the class, if the first part is a split."""
    return {p.split("/")[1] for p in paths if p.count("/") >= 2}


def _split_folders(folders: dict[str, list[str]], root: Path) -> dict[str, str] | None:
    """Split -> folder name if the folders are splits; None if they are classes."""
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
                f"Expected a train folder next to {shorten(folders)}, got none in {root}. Rename the one to train on."
            )
        return None
    if not classes["train"] or any(p.count("/") == 1 for p in folders[splits["train"]]):
        return None  # it contains images itself: a class called train
    shared = any(classes["train"] & classes[s] for s in splits if s != "train")
    return splits if shared or len(splits) == len(folders) else None


def _split_files(
    splits: dict[str, str], folders: dict[str, list[str]], skipped: dict[str, list[str]]
) -> list[ImageFile]:
    files = []
    for split in ("train", "validation", "test"):
        for path in folders.get(splits.get(split, ""), []):
            if path.count("/") >= 2:
                files.append(ImageFile(path, path.split("/")[1], split))
            else:
                skipped[LOOSE].append(path)
    for name, paths in folders.items():
        if name not in splits.values():
            skipped[OUTSIDE] += paths
    return files
