"""A table of rows about items: written to a file, resumed after an interruption, or printed."""

from __future__ import annotations

import csv
import glob
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from imgcls.errors import OptionError
from imgcls.storage.atomic_file import atomic_write_text

FORMATS = (".csv", ".jsonl")


def open_table(
    file: str | None, format: str, columns: Sequence[str], settings: object, format_line: Callable[[dict], str]
) -> ResumableTable | PrintedTable:
    """A table in a file; without one, a table that is printed.

    format: of printed rows: "csv", "jsonl", or "table", which prints what `format_line` returns for a row.
    """
    if file is None:
        return PrintedTable(format, columns, format_line)
    return ResumableTable(file, columns, settings)


class ResumableTable:
    """Rows in a new .csv or .jsonl file; the same command resumes after the last complete row.

    Until `finish`, the rows are JSON lines in FILE.<key>.partial. The key is a hash of columns and settings: rows of
    other settings are never continued. columns: of each row; the first identifies its item. Use it in `with`.
    Raises OptionError for a file of another format or one that exists.
    """

    def __init__(self, file: str | Path, columns: Sequence[str], settings: object):
        self.file, self.columns = Path(file), tuple(columns)
        self.is_csv = self.file.suffix.lower() == ".csv"
        if self.file.suffix.lower() not in FORMATS:
            raise OptionError(f"Expected a file called {' or '.join(FORMATS)}, got {file}.")
        if self.file.exists():
            raise OptionError(f"Expected a new file, got {file}, which exists. Give another, or move it away.")
        content = (self.columns, settings, "json lines") if self.is_csv else (self.columns, settings)
        key = hashlib.sha256(repr(content).encode(errors="surrogateescape")).hexdigest()[:8]
        self.partial = self.file.with_name(f"{self.file.name}.{key}.partial")

    def __enter__(self) -> ResumableTable:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.partial.touch()
        self._drop_torn_row()
        self._out = open(self.partial, "a", encoding="utf-8", errors="surrogateescape", newline="")
        return self

    def __exit__(self, *_: object) -> None:
        self._out.close()

    def rest(self, items: Iterable[str]) -> Iterator[str]:
        """The items that have no row yet. Raises OptionError if the rows are not about the first of the items."""
        items = iter(items)
        for row in self._rows():
            item, expected = row[self.columns[0]], next(items, None)
            if item != expected:
                raise OptionError(
                    f"Expected the same images as when {self.partial} was stopped, got {expected or 'no more'} in the "
                    f"place of {item}. Remove that file to start over."
                )
        yield from items

    def count(self) -> int:
        """Number of rows in the file."""
        return sum(1 for _ in self._rows())

    def write(self, rows: Iterable[dict]) -> None:
        """Add rows, each with all columns; they are in the file when this returns."""
        self._out.writelines(f"{_to_json(row)}\n" for row in rows)
        self._out.flush()

    def finish(self) -> None:
        """Give the complete table its name and format; remove partial files of other settings."""
        self._out.close()
        if self.is_csv:
            with atomic_write_text(self.file) as out:
                csv.writer(out, lineterminator="\n").writerow(self.columns)
                _write_csv(out, self.columns, self._rows())
            self.partial.unlink()
        else:
            self.partial.rename(self.file)
        for stale in self.file.parent.glob(f"{glob.escape(self.file.name)}.????????.partial"):
            stale.unlink()

    def _rows(self) -> Iterator[dict]:
        with open(self.partial, encoding="utf-8", errors="surrogateescape", newline="\n") as lines:
            for line in lines:
                yield json.loads(line)

    def _drop_torn_row(self) -> None:
        """Cut off what a kill left after the last complete row."""
        with open(self.partial, "r+b") as file:
            file.truncate(sum(len(line) for line in file if line.endswith(b"\n")))


class PrintedTable:
    """Rows on stdout, with the methods of ResumableTable; nothing is resumed."""

    def __init__(self, format: str, columns: Sequence[str], format_line: Callable[[dict], str]):
        self.format, self.columns = format, columns
        self.format_line = format_line if format == "table" else _to_json

    def __enter__(self) -> PrintedTable:
        if self.format == "csv":
            csv.writer(sys.stdout, lineterminator="\n").writerow(self.columns)
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def rest(self, items: Iterable[str]) -> Iterable[str]:
        """All items."""
        return items

    def count(self) -> int:
        """0: no row is there before the command."""
        return 0

    def write(self, rows: Iterable[dict]) -> None:
        """Print rows at once."""
        if self.format == "csv":
            _write_csv(sys.stdout, self.columns, rows)
        else:
            sys.stdout.writelines(f"{self.format_line(row)}\n" for row in rows)
        sys.stdout.flush()

    def finish(self) -> None:
        """Nothing: all rows are printed."""


def _to_json(row: dict) -> str:
    return json.dumps(row, ensure_ascii=False)


def _write_csv(out: TextIO, columns: Sequence[str], rows: Iterable[dict]) -> None:
    """Write rows, quoted where needed; Python before 3.13 does not quote a lone carriage return."""
    for row in rows:
        quoting = csv.QUOTE_ALL if any("\r" in str(value) for value in row.values()) else csv.QUOTE_MINIMAL
        csv.DictWriter(out, columns, lineterminator="\n", quoting=quoting).writerow(row)
