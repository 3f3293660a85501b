"""What is kept between runs, outside the run folders; safe against kills and several runs at once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import PIL

from imgcls import artifacts

log = logging.getLogger(__name__)

ARRAY_BYTES = 4_000_000_000  # of each kind; features of 200,000 images take 0.3 to 1.6 GB


def folder() -> Path:
    """$IMGCLS_CACHE, else imgcls in the user's cache folder ($XDG_CACHE_HOME or ~/.cache)."""
    chosen = os.environ.get("IMGCLS_CACHE")
    return Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "imgcls"


def file_state(key: str) -> tuple:
    """A file's real path, size and time of change; what is no file stands for itself."""
    if not os.path.exists(key):
        return (key,)
    stat = os.stat(key)
    return os.path.realpath(key), stat.st_size, stat.st_mtime_ns


def array(kind: str, key: object, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array that `make` gives, kept under everything that it depends on; key: plain values.

    Arrays that were not used for the longest time make room for new ones beyond ARRAY_BYTES. A cache that cannot be
    written is said once and done without.
    """
    name = hashlib.sha256(json.dumps([kind, key]).encode()).hexdigest()
    file = folder() / kind / f"{name}.npy"
    try:
        found = np.load(file)
        os.utime(file)
        return found
    except (OSError, ValueError):  # not there, or cut short by a full disk
        found = make()
    try:
        with artifacts.whole_file(file) as out:
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


class Verdicts:
    """Which image files were found sound or broken, keyed by path, size, time and Pillow's version.

    A cache that cannot be opened or written is said once and then done without: files are simply checked again.
    """

    def __init__(self):
        try:
            folder().mkdir(parents=True, exist_ok=True)
            self._table = sqlite3.connect(folder() / "verdicts.sqlite", timeout=60)
            self._table.execute("CREATE TABLE IF NOT EXISTS verdicts (path TEXT PRIMARY KEY, state TEXT, reason TEXT)")
        except (OSError, sqlite3.Error) as error:
            log.warning("verdicts on images are not kept: %s in %s", error, folder())
            self._table = None

    @staticmethod
    def _state(path: str) -> str:
        stat = os.stat(path)
        return f"{stat.st_size} {stat.st_mtime_ns} {PIL.__version__}"

    def known(self, paths: Iterable[str]) -> dict[str, str | None]:
        """path -> reason why it cannot be decoded (None: sound), for files unchanged since they were checked."""
        if self._table is None:
            return {}
        found = {}
        for path in paths:
            row = self._table.execute("SELECT state, reason FROM verdicts WHERE path = ?", (path,)).fetchone()
            if row is not None and os.path.exists(path) and row[0] == self._state(path):
                found[path] = row[1]
        return found

    def keep(self, verdicts: dict[str, str | None]) -> None:
        """Add verdicts of files that were just checked."""
        rows = [(path, self._state(path), why) for path, why in verdicts.items() if os.path.exists(path)]
        if self._table is None or not rows:
            return
        try:
            with self._table:
                self._table.executemany("INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?)", rows)
        except sqlite3.Error as error:
            log.warning("verdicts on images are not kept: %s in %s", error, folder())
