"""What is kept between runs, outside the run folders; safe against kills and several runs at once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import PIL

from imgcls.storage import run_folder

log = logging.getLogger(__name__)

ARRAY_BYTES = 4_000_000_000  # of each kind; features of 200,000 images take 0.3 to 1.6 GB


def cache_folder() -> Path:
    """$IMGCLS_CACHE, else imgcls in the user's cache folder ($XDG_CACHE_HOME or ~/.cache)."""
    chosen = os.environ.get("IMGCLS_CACHE")
    return Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "imgcls"


def file_state(key: str) -> tuple:
    """A file's real path, size and time of change; what is no file stands for itself."""
    if not os.path.exists(key):
        return (key,)
    stat = os.stat(key)
    return os.path.realpath(key), stat.st_size, stat.st_mtime_ns


def cached_array(kind: str, key: object, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array that `make` gives, kept under everything that it depends on; key: plain values.

    Arrays that were not used for the longest time make room for new ones beyond ARRAY_BYTES. A cache that cannot be
    written is said once and done without.
    """
    name = hashlib.sha256(json.dumps([kind, key]).encode()).hexdigest()
    file = cache_folder() / kind / f"{name}.npy"
    try:
        found = np.load(file)
        os.utime(file)
        return found
    except (OSError, ValueError, EOFError):  # not there, or cut short by a full disk
        found = make()
    try:
        with run_folder.atomic_write(file) as out:
            np.save(out, found)
        _make_room(file.parent)
    except OSError as error:
        log.warning("%s are not kept: %s in %s", kind, error.strerror, file.parent)
    return found


def _make_room(place: Path) -> None:
    """Remove the arrays that were used least recently until the rest fit."""
    room = ARRAY_BYTES
    for file in sorted(place.glob("*.npy"), key=lambda f: f.stat().st_mtime, reverse=True):
        room -= file.stat().st_size
        if room < 0:
            file.unlink(missing_ok=True)


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
