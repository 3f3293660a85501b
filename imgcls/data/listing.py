"""A list of images with path, class and split of each, and what training needs of it."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from imgcls.errors import FolderError, shorten

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "eval", "dev"),
    "test": ("test", "testing"),
}
SPLIT_OF = {name: split for split, names in SPLIT_NAMES.items() for name in names}
HIDDEN, NO_IMAGE, EMPTY = "hidden or system", "not an image", "empty folder"
LOOSE, OUTSIDE, REPEATED = "outside the class folders", "in folders next to the splits", "repeated row"
SPECIAL, FORBIDDEN = "neither file nor folder", "folder without read permission"
_CLUTTER = {"__MACOSX", "Thumbs.db", "desktop.ini", "@eaDir", "$RECYCLE.BIN"}


def is_clutter(name: str) -> bool:
    """Whether a file or folder is hidden or belongs to a system, so that its owner would not call it an image."""
    return name.startswith(".") or name in _CLUTTER


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One image: path relative to the root (or absolute, from a CSV), class, and split if the data has any."""

    path: str
    label: str
    split: str | None = None


@dataclass
class Listing:
    """The images of a data folder. skipped: kind of entry that is not used -> paths relative to the root."""

    root: Path
    files: list[ImageFile] = field(default_factory=list)
    skipped: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    @property
    def classes(self) -> list[str]:
        """Names of the classes, sorted."""
        return sorted({f.label for f in self.files})

    def absolute(self, file: ImageFile) -> Path:
        """Absolute path of a file, whatever the working directory."""
        return self.root.absolute() / file.path

    def paths(self) -> list[str]:
        """Absolute path of each file, whatever the working directory."""
        root = os.path.abspath(self.root)
        return [os.path.normpath(os.path.join(root, file.path)) for file in self.files]  # a CSV may have ../

    def summary(self) -> str:
        """What was skipped, in one line; empty if nothing was."""
        parts = [f"{len(paths)} {kind}" for kind, paths in sorted(self.skipped.items()) if paths]
        return f"skipped: {', '.join(parts)}" if parts else ""


def check_classes(listing: Listing, source: Path) -> None:
    """Raise FolderError unless there are two classes with enough images, and the same classes in given splits."""
    per_split: dict[str | None, Counter[str]] = {}
    for file in listing.files:
        per_split.setdefault(file.split, Counter())[file.label] += 1
    if not listing.files:
        loose = listing.skipped[LOOSE]
        skipped = listing.summary()
        got = f"{len(loose)} images directly in it" if loose else f"none ({skipped})" if skipped else "an empty folder"
        raise FolderError(f"Expected class folders with images in {source}, got {got}. Make one folder per class.")
    train = per_split.get("train", Counter()) + per_split.get(None, Counter())
    if len(listing.classes) == 1:
        raise FolderError(_single_class(listing, source))
    for split in ("validation", "test"):
        extra = set(per_split.get(split, ())) - set(train)
        if extra:
            raise FolderError(
                f"Expected the classes of {split} among train's, got {shorten(extra)} in {split} only in {source}; "
                f"train has {shorten(train)}. Name the classes alike, or move their images."
            )
    lacking = set(train) - set(per_split.get("validation", train))
    if lacking:
        raise FolderError(
            f"Expected all classes of train in validation, got none of {shorten(lacking)} in {source}. Add images "
            "there, or remove validation: a fraction of each class is then used for it."
        )
    lone = [] if "validation" in per_split else [name for name, count in train.items() if count < 2]
    if lone:
        raise FolderError(
            f"Expected at least 2 images in each class, one to train on and one to validate, got 1 in {shorten(lone)} "
            f"in {source}. Add images or remove the class."
        )


def _single_class(listing: Listing, source: Path) -> str:
    return f"Expected at least two classes in {source}, got one: {listing.classes[0]}. {single_class_cure(listing)}"


def single_class_cure(listing: Listing) -> str:
    """Advice for a listing of one class, or none."""
    name = listing.classes[0] if listing.classes else ""
    inner = {f.path.split("/")[1] for f in listing.files if f.path.startswith(f"{name}/") and f.path.count("/") > 1}
    if len(inner) >= 2:
        return f"If its folders are the classes, give --data {listing.root / name}"
    return "Add images of another class." if name else "Make one folder per class, side by side."
