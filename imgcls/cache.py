"""What is kept between runs, outside the run folders; safe against kills and several runs at once."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path

import PIL

log = logging.getLogger(__name__)


def folder() -> Path:
    """$IMGCLS_CACHE, else imgcls in the user's cache folder ($XDG_CACHE_HOME or ~/.cache)."""
    chosen = os.environ.get("IMGCLS_CACHE")
    return Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "imgcls"


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
