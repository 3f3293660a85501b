"""Class folders or a CSV on disk: which images there are, their classes, and the splits they came in."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from imgcls.errors import FolderError, nearest, shorten
from imgcls.images import is_image

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "eval", "dev"),
    "test": ("test", "testing"),
}
_SPLIT_OF = {name: split for split, names in SPLIT_NAMES.items() for name in names}
_CLUTTER = {"__MACOSX", "Thumbs.db", "desktop.ini", "@eaDir", "$RECYCLE.BIN"}
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")
_COLUMNS = {
    "path": ("path", "file", "filename", "file_name", "image", "image_path"),
    "label": ("label", "class", "category", "target"),
    "split": ("split", "set"),
}
HIDDEN, NO_IMAGE, EMPTY = "hidden or system", "not an image", "empty folder"
LOOSE, OUTSIDE, REPEATED = "outside the class folders", "in folders beside the splits", "repeated row"


@dataclass(frozen=True)
class ImageFile:
    """One image: its path relative to the root (or absolute, from a CSV), its class, the split it came in."""

    path: str
    label: str
    split: str | None = None


@dataclass
class Listing:
    """What a data folder holds. skipped: kind of thing that was left out -> count."""

    root: Path
    files: list[ImageFile] = field(default_factory=list)
    skipped: Counter = field(default_factory=Counter)

    @property
    def classes(self) -> list[str]:
        return sorted({f.label for f in self.files})

    def absolute(self, file: ImageFile) -> Path:
        """Where the file lies, whatever the working directory."""
        return self.root.absolute() / file.path

    def summary(self) -> str:
        """What was left out, in one line; empty when nothing was."""
        parts = [f"{count} {kind}" for kind, count in sorted(self.skipped.items()) if count]
        return f"left out: {', '.join(parts)}" if parts else ""


def load(path: str | Path) -> Listing:
    """A folder of class folders, or a .csv or .tsv with a path and a label column."""
    path = Path(path)
    if path.is_file() and path.suffix.lower() in (".csv", ".tsv"):
        return read_csv(path)
    return scan(path)


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
    _check_classes(listing, root)
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
        split = _SPLIT_OF.get(name.lower())
        if split and split in splits and "train" in {_SPLIT_OF.get(n.lower()) for n in folders}:
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


def read_csv(path: str | Path) -> Listing:
    """Images named in a CSV (comma, semicolon or tab; header with a path and a label column, a split one at will).

    Paths are relative to the CSV's folder or absolute. Raises FolderError with the line for missing files, empty
    labels and images with several labels.
    """
    path = Path(path)
    listing = Listing(path.parent)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise FolderError(f"Expected a CSV in UTF-8, got {path}: {error}. Save it again as UTF-8.") from error
    header = text.split("\n", 1)[0]
    rows = csv.DictReader(io.StringIO(text), delimiter=max(",;\t", key=header.count))
    columns = {kind: _column(rows.fieldnames or [], kind, path) for kind in _COLUMNS}
    files: dict[str, ImageFile] = {}
    missing = []
    for row in _csv_rows(rows, path):
        where = f"{path}, line {rows.line_num}"
        file = _csv_row(row, columns, where)
        before = files.setdefault(file.path, file)
        if before.label != file.label:
            raise _several_labels(f"{where}: {file.path}", f"{before.label} and {file.label}")
        if before != file:
            both = f"{before.split or 'none'} and {file.split or 'none'}"
            raise FolderError(f"Expected one split an image, got {both} in {where}: {file.path}. Keep one of the rows.")
        listing.skipped[REPEATED] += before is not file
        if not listing.absolute(file).is_file():
            missing.append(file.path)
    if missing:
        raise FolderError(
            f"Expected the files that {path} names, got {len(missing)} that do not exist: {shorten(missing)}. "
            "Paths are relative to the CSV's folder."
        )
    if not files:
        raise FolderError(f"Expected a row for each image in {path}, got none. Add them below the first line.")
    listing.files = sorted(files.values(), key=lambda f: f.path)
    _check_classes(listing, path)
    return listing


def _csv_rows(rows: csv.DictReader, path: Path) -> Iterator[dict[str, str]]:
    try:
        yield from rows
    except csv.Error as error:
        raise FolderError(
            f"Expected rows of a CSV, got {error} after {path}, line {rows.line_num}. Mend the quotes there."
        ) from error


def _column(names: list[str], kind: str, path: Path) -> str | None:
    found = [n for n in names if n and n.strip().lower() in _COLUMNS[kind]]
    if found or kind == "split":
        return found[0] if found else None
    known, got = ", ".join(_COLUMNS[kind]), shorten(filter(None, names)) or "none"
    raise FolderError(f"Expected a {kind} column ({known}) in {path}, got {got}. Name it in the first line.")


def _csv_row(row: dict[str, str], columns: dict[str, str | None], where: str) -> ImageFile:
    path, label = ((row[columns[kind]] or "").strip() for kind in ("path", "label"))
    if not path or not label:
        got = f"{path or 'none'} and {label or 'none'}"
        raise FolderError(f"Expected a path and a label in {where}, got {got}. Fill it in or remove the line.")
    if label.startswith(("[", "{")) or any(mark in label for mark in ";|"):
        raise _several_labels(where, repr(label))
    split = (row[columns["split"]] or "").strip().lower() if columns["split"] else ""
    if split and split not in _SPLIT_OF:
        known = ", ".join(SPLIT_NAMES)
        raise FolderError(f"Expected a split among {known} in {where}, got {split!r}. Leave it empty to be divided.")
    return ImageFile(Path(path).as_posix(), label, _SPLIT_OF.get(split))  # ./a.jpg and a.jpg are one image


def _several_labels(where: str, labels: str) -> FolderError:
    return FolderError(
        f"Expected one label an image, got {labels} in {where}. imgcls sorts each image into exactly one class; "
        "keep the label that matters most."
    )


def _check_classes(listing: Listing, source: Path) -> None:
    """Two classes or more, enough images in each, and the same classes on both sides of a given split."""
    per_split = {}
    for file in listing.files:
        per_split.setdefault(file.split, Counter())[file.label] += 1
    if not listing.files:
        loose = listing.skipped[LOOSE]
        got = f"{loose} images directly in it" if loose else listing.summary() or "an empty folder"
        raise FolderError(f"Expected class folders with images in {source}, got {got}. Make one folder a class.")
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
            "there, or remove validation: a share of each class is then kept aside."
        )
    lone = [] if "validation" in per_split else [name for name, count in train.items() if count < 2]
    if lone:
        raise FolderError(
            f"Expected at least 2 images in each class, one to train on and one to validate, got 1 in {shorten(lone)} "
            f"in {source}. Add images or remove the class."
        )


def _single_class(listing: Listing, source: Path) -> str:
    (name,) = listing.classes
    inner = {f.path.split("/")[1] for f in listing.files if f.path.startswith(f"{name}/") and f.path.count("/") > 1}
    cure = "Add images of another class."
    if len(inner) >= 2:
        cure = f"If its folders are the classes, give --data {listing.root / name}"
    return f"Expected at least two classes in {source}, got one: {name}. {cure}"
