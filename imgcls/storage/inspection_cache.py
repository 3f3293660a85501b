"""What the audit found about each image file, stored between runs."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence

import PIL

from imgcls.storage.array_cache import cache_folder

log = logging.getLogger(__name__)

PATHS_PER_QUERY = 500  # below SQLite's limit of parameters


class InspectionCache:
    """Inspections of image files, by path, size and modification time of each file, and by `version`.

    version: of the inspection and its record; Pillow's version is added. If the cache cannot be opened or written, that
    is logged, and all files are inspected again.
    """

    def __init__(self, version: object):
        self._version = f"{version} {PIL.__version__}"
        self._database: sqlite3.Connection | None = None
        try:
            cache_folder().mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(cache_folder() / "inspections.sqlite", timeout=60)
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS inspections (path TEXT PRIMARY KEY, state TEXT, reason TEXT, record BLOB)"
            )
        except (OSError, sqlite3.Error) as error:
            self._disable(error)

    def lookup(self, paths: Sequence[str]) -> Iterator[tuple[int, str | None, bytes]]:
        """Index, reason and record of each file that has not changed since it was inspected."""
        for start in range(0, len(paths), PATHS_PER_QUERY):
            indices = {_to_text(path): start + i for i, path in enumerate(paths[start : start + PATHS_PER_QUERY])}
            marks = ",".join("?" * len(indices))
            query = f"SELECT path, state, reason, record FROM inspections WHERE path IN ({marks})"
            for path, state, reason, record in self._rows(query, list(indices)):
                index = indices[path]
                if state == self._state(paths[index]):
                    yield index, reason, record

    def add(self, inspections: Iterable[tuple[str, str | None, bytes]]) -> None:
        """Store path, reason and record of files that were just inspected."""
        rows = [(_to_text(path), self._state(path), reason, record) for path, reason, record in inspections]
        rows = [row for row in rows if row[1] is not None]
        if self._database is None or not rows:
            return
        try:
            with self._database:
                self._database.executemany("INSERT OR REPLACE INTO inspections VALUES (?, ?, ?, ?)", rows)
        except sqlite3.Error as error:
            self._disable(error)

    def _rows(self, query: str, parameters: Sequence[str]) -> list[tuple]:
        if self._database is None:
            return []
        try:
            return self._database.execute(query, parameters).fetchall()
        except sqlite3.Error as error:  # part of the file is damaged
            self._disable(error)
            return []

    def _disable(self, error: Exception) -> None:
        log.warning("cannot store inspections of images in %s: %s", cache_folder(), error)
        self._database = None

    def _state(self, path: str) -> str | None:
        """None for what cannot be looked up, such as a broken link or a folder without permission."""
        try:
            stat = os.stat(path)
        except (OSError, ValueError):
            return None
        return f"{stat.st_size} {stat.st_mtime_ns} {self._version}"


def _to_text(path: str) -> str:
    """A path as text that SQLite accepts: names on disk need not be valid Unicode."""
    return path.encode(errors="surrogateescape").decode(errors="backslashreplace")
