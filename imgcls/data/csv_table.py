"""A CSV that names images and their classes, and the splits they came in at will."""

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
    """Images named in a CSV (comma, semicolon or tab; header with a path and a label column, a split one at will).

    Paths are relative to the CSV's folder or absolute. Raises FolderError with the line for missing files, empty
    labels and images with several labels; when strict, also for classes that cannot be trained on.
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
        if before is not file:
            listing.skipped[REPEATED].append(f"line {rows.line_num}: {file.path}")
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
    if strict:
        check_classes(listing, path)
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
    if split and split not in SPLIT_OF:
        known = ", ".join(SPLIT_NAMES)
        raise FolderError(f"Expected a split among {known} in {where}, got {split!r}. Leave it empty to be divided.")
    return ImageFile(Path(path).as_posix(), label, SPLIT_OF.get(split))  # ./a.jpg and a.jpg are one image


def _several_labels(where: str, labels: str) -> FolderError:
    return FolderError(
        f"Expected one label an image, got {labels} in {where}. imgcls sorts each image into exactly one class; "
        "keep the label that matters most."
    )
