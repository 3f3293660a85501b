"""A CSV with the paths of images and their classes, and optionally their splits."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from imgcls.data.listing import REPEATED, SPLIT_NAMES, SPLIT_OF, ImageFile, Listing, check_classes
from imgcls.errors import FolderError, shorten

_COLUMNS = {
    "path": ("path", "file", "filename", "file_name", "image", "image_path"),
    "label": ("label", "class", "category", "target"),
    "split": ("split", "set"),
}


def read_csv(path: str | Path, *, strict: bool = True) -> Listing:
    """The images in a CSV (comma, semicolon or tab; a header with a path, a label and optionally a split column).

    Paths are relative to the CSV's folder or absolute. Raises FolderError, with the line, for missing files,
    empty labels and images with several labels; when strict, also for classes that cannot be trained on.
    """
    path = Path(path)
    listing = Listing(path.parent)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise FolderError(f"Expected a CSV in UTF-8, got {path}: {error}. Save it again as UTF-8.") from error
    header = text.split("\n", 1)[0]
    rows = csv.DictReader(io.StringIO(text), delimiter=max(",;\t", key=header.count))
    columns = {kind: _find_column(list(rows.fieldnames or ()), kind, path) for kind in _COLUMNS}
    files: dict[str, ImageFile] = {}
    missing: list[str] = []
    for row in _csv_rows(rows, path):
        where = f"{path}, line {rows.line_num}"
        file = _csv_row(row, columns, where)
        first = files.setdefault(file.path, file)
        if first.label != file.label:
            raise _several_labels(f"{where}: {file.path}", f"{first.label} and {file.label}")
        if first != file:
            both = f"{first.split or 'none'} and {file.split or 'none'}"
            raise FolderError(
                f"Expected one split per image, got {both} in {where}: {file.path}. Keep one of the rows."
            )
        if first is not file:
            listing.skipped[REPEATED].append(f"line {rows.line_num}: {file.path}")
        if not listing.absolute(file).is_file():
            missing.append(file.path)
    if missing:
        raise FolderError(
            f"Expected the files that {path} names, got {len(missing)} that do not exist: {shorten(missing)}. "
            "Paths are relative to the CSV's folder."
        )
    if not files:
        raise FolderError(f"Expected a row for each image in {path}, got none. Add rows below the header.")
    listing.files = sorted(files.values(), key=lambda f: f.path)
    if strict:
        check_classes(listing, path)
    return listing


def _csv_rows(rows: csv.DictReader, path: Path) -> Iterator[dict[str, str]]:
    try:
        yield from rows
    except csv.Error as error:
        raise FolderError(
            f"Expected rows of a CSV, got {error} after {path}, line {rows.line_num}. Fix the quotes there."
        ) from error


def _find_column(names: list[str], kind: str, path: Path) -> str | None:
    matches = [n for n in names if n and n.strip().lower() in _COLUMNS[kind]]
    if matches or kind == "split":
        return matches[0] if matches else None
    known, got = ", ".join(_COLUMNS[kind]), shorten(filter(None, names)) or "none"
    raise FolderError(f"Expected a {kind} column ({known}) in {path}, got {got}. Name it in the header.")


def _csv_row(row: dict[str, str], columns: dict[str, str | None], where: str) -> ImageFile:
    def cell(kind: str) -> str:
        column = columns[kind]
        return (row[column] or "").strip() if column else ""

    path, label, split = cell("path"), cell("label"), cell("split").lower()
    if not path or not label:
        got = f"{path or 'none'} and {label or 'none'}"
        raise FolderError(f"Expected a path and a label in {where}, got {got}. Fill it in or remove the line.")
    if label.startswith(("[", "{")) or any(mark in label for mark in ";|"):
        raise _several_labels(where, repr(label))
    if split and split not in SPLIT_OF:
        known = ", ".join(SPLIT_NAMES)
        raise FolderError(f"Expected a split among {known} in {where}, got {split!r}. Leave it empty to split.")
    return ImageFile(Path(path).as_posix(), label, SPLIT_OF.get(split))  # ./a.jpg and a.jpg are one image


def _several_labels(where: str, labels: str) -> FolderError:
    return FolderError(
        f"Expected one label per image, got {labels} in {where}. imgcls assigns each image to exactly one class; "
        "keep the label that matters most."
    )
