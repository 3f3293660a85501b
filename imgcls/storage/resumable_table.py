"""A table that grows row by row, goes on where it was stopped, and gets its name once it is whole."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from imgcls.errors import OptionError

FORMATS = (".csv", ".jsonl")


def open_table(file: str | None, format: str, columns: Sequence[str], settings: object, shown: Callable[[dict], str]):
    """A Ledger for a file; without one, rows are printed: as "csv", "jsonl", or a line for people as `shown` says."""
    if file is None:
        return _Printed(format, columns, shown)
    return ResumableTable(file, columns, settings)


class ResumableTable:
    """Rows in a .csv or .jsonl file. While it is written it is called FILE.<key>.partial, the key telling the settings
    apart: rows of other settings are never gone on with.

    columns: of each row; the first one says what the row is about. Use it in `with`; `finish` gives it its name.
    """

    def __init__(self, file: str | Path, columns: Sequence[str], settings: object):
        self.file, self.columns = Path(file), tuple(columns)
        self.kind = self.file.suffix.lower()
        if self.kind not in FORMATS:
            raise OptionError(f"Expected a file called {' or '.join(FORMATS)}, got {file}.")
        if self.file.exists():
            raise OptionError(f"Expected a new file, got {file}, which exists. Give another, or move it away.")
        key = hashlib.sha256(repr((self.columns, settings)).encode(errors="surrogateescape")).hexdigest()[:8]
        self.partial = self.file.with_name(f"{self.file.name}.{key}.partial")

    def __enter__(self) -> ResumableTable:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.partial.touch()
        self._drop_torn_row()
        self.out = open(self.partial, "a", encoding="utf-8", errors="surrogateescape", newline="")
        if self.kind == ".csv" and not self.partial.stat().st_size:
            csv.writer(self.out, lineterminator="\n").writerow(self.columns)
        return self

    def __exit__(self, *_) -> None:
        self.out.close()

    def rest(self, items: Iterable[str]) -> Iterator[str]:
        """The items that have no row yet. Raises OptionError when those that have are not the first of them."""
        items = iter(items)
        for done in self._done():
            expected = next(items, None)
            if done != expected:
                raise OptionError(
                    f"Expected the same images as when {self.partial} was stopped, got {expected or 'no more'} in the "
                    f"place of {done}. Remove that file to start over."
                )
        yield from items

    def count(self) -> int:
        """Rows that are there already."""
        return sum(1 for _ in self._done())

    def write(self, rows: Iterable[dict]) -> None:
        """Add rows, each with all columns; they are in the file when this returns."""
        if self.kind == ".csv":
            _write_csv(self.out, self.columns, rows)
        else:
            self.out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        self.out.flush()

    def finish(self) -> None:
        """All rows are written: the file gets its name. What was stopped under other settings is removed."""
        self.out.close()
        self.partial.rename(self.file)
        for stale in self.file.parent.glob(f"{_escaped(self.file.name)}.????????.partial"):
            stale.unlink()

    def _done(self) -> Iterator[str]:
        for row, _ in self._whole_rows():
            yield row[0]

    def _whole_rows(self) -> Iterator[tuple[list, int]]:
        """Values of each whole row, and the byte behind it; the header is none."""
        with open(self.partial, "rb") as file:
            lines = _Counted(file)
            if self.kind == ".csv":
                reader = csv.reader(lines)
                next(reader, None)
                for row in reader:
                    if len(row) != len(self.columns) or not lines.ended:
                        return
                    yield row, lines.read
            else:
                for line in lines:
                    if not lines.ended:
                        return
                    yield list(json.loads(line).values()), lines.read

    def _drop_torn_row(self) -> None:
        """Cut off what a kill left behind the last whole row."""
        end = len(self._header()) if self.kind == ".csv" else 0
        for _, end in self._whole_rows():  # noqa: B007
            pass
        with open(self.partial, "r+b") as file:
            whole = end if self.kind == ".jsonl" or file.read(len(self._header())) == self._header() else 0
            file.truncate(min(whole, self.partial.stat().st_size))

    def _header(self) -> bytes:
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerow(self.columns)
        return out.getvalue().encode()


def _write_csv(out: io.TextIOBase, columns: Sequence[str], rows: Iterable[dict]) -> None:
    """Quotes what must be quoted; Python before 3.13 does not know it of a lone carriage return."""
    for row in rows:
        quoting = csv.QUOTE_ALL if any("\r" in str(value) for value in row.values()) else csv.QUOTE_MINIMAL
        csv.DictWriter(out, columns, lineterminator="\n", quoting=quoting).writerow(row)


class _Printed:
    """A ledger's way of taking rows, for stdout: nothing is gone on with."""

    def __init__(self, format: str, columns: Sequence[str], shown: Callable[[dict], str]):
        self.format, self.columns, self.shown = format, columns, shown

    def __enter__(self) -> _Printed:
        if self.format == "csv":
            csv.writer(sys.stdout, lineterminator="\n").writerow(self.columns)
        return self

    def __exit__(self, *_) -> None:
        pass

    def rest(self, items: Iterable[str]) -> Iterable[str]:
        return items

    def count(self) -> int:
        return 0

    def write(self, rows: Iterable[dict]) -> None:
        if self.format == "csv":
            _write_csv(sys.stdout, self.columns, rows)
        else:
            lines = self.shown if self.format == "table" else lambda row: json.dumps(row, ensure_ascii=False)
            sys.stdout.writelines(f"{lines(row)}\n" for row in rows)
        sys.stdout.flush()

    def finish(self) -> None:
        pass


class _Counted:
    """Lines of a binary file as text, with the bytes read so far, and whether the last line had its end."""

    def __init__(self, file: io.BufferedReader):
        self.file, self.read, self.ended = file, 0, True

    def __iter__(self) -> _Counted:
        return self

    def __next__(self) -> str:
        line = self.file.readline()
        if not line:
            raise StopIteration
        self.read += len(line)
        self.ended = line.endswith(b"\n")
        return line.decode(errors="surrogateescape")


def _escaped(name: str) -> str:
    """A name as a pattern that matches itself alone."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
