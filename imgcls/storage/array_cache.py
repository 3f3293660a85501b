"""What is kept between runs, outside the run folders; safe against kills and several runs at once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from imgcls.storage import atomic_file

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
        with atomic_file.atomic_write(file) as out:
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
