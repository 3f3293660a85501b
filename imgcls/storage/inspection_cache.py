"""What the audit found out about images, kept between runs."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence

import PIL

from imgcls.storage.array_cache import cache_folder

log = logging.getLogger(__name__)


class InspectionCache:
    """What was found out about image files, keyed by path, size and time of each and by `version`.

    version: of what is kept; also Pillow's counts. A cache that cannot be opened or written is said once and then done
    without: files are simply inspected again.
    """

    def __init__(self, version: object):
        self._version = f"{version} {PIL.__version__}"
        try:
            cache_folder().mkdir(parents=True, exist_ok=True)
            self._table = sqlite3.connect(cache_folder() / "inspections.sqlite", timeout=60)
            self._table.execute(
                "CREATE TABLE IF NOT EXISTS inspections (path TEXT PRIMARY KEY, state TEXT, reason TEXT, record BLOB)"
            )
        except (OSError, sqlite3.Error) as error:
            log.warning("what is found out about images is not kept: %s in %s", error, cache_folder())
            self._table = None

    def _state(self, path: str) -> str | None:
        """None for what cannot be looked up, such as a broken link or a folder that must not be read."""
        try:
            stat = os.stat(path)
        except (OSError, ValueError):
            return None
        return f"{stat.st_size} {stat.st_mtime_ns} {self._version}"

    def known(self, paths: Sequence[str]) -> Iterator[tuple[int, str | None, bytes]]:
        """Position, reason and record of each file that is unchanged since it was inspected."""
        if self._table is None:
            return
        for start in range(0, len(paths), 500):
            part = {_text(path): start + i for i, path in enumerate(paths[start : start + 500])}
            marks = ",".join("?" * len(part))
            query = f"SELECT path, state, reason, record FROM inspections WHERE path IN ({marks})"
            for path, state, reason, record in self._table.execute(query, list(part)):
                if state == self._state(paths[part[path]]):
                    yield part[path], reason, record

    def keep(self, found: Iterable[tuple[str, str | None, bytes]]) -> None:
        """Add path, reason and record of files that were just inspected."""
        rows = [(_text(path), self._state(path), reason, record) for path, reason, record in found]
        rows = [row for row in rows if row[1] is not None]
        if self._table is None or not rows:
            return
        try:
            with self._table:
                self._table.executemany("INSERT OR REPLACE INTO inspections VALUES (?, ?, ?, ?)", rows)
        except sqlite3.Error as error:
            log.warning("what is found out about images is not kept: %s in %s", error, cache_folder())
            self._table = None


def _text(path: str) -> str:
    """A path as text that SQLite takes: names on disk need not be valid Unicode."""
    return path.encode(errors="surrogateescape").decode(errors="backslashreplace")
