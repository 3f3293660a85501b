"""Arrays that are stored between runs, outside of run folders; safe against kills and several runs at once."""

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

ARRAY_BYTES = 4_000_000_000  # limit of each kind; features of 200,000 images take 0.3 to 1.6 GB


def cache_folder() -> Path:
    """$IMGCLS_CACHE, otherwise imgcls in the user's cache folder ($XDG_CACHE_HOME or ~/.cache)."""
    folder = os.environ.get("IMGCLS_CACHE")
    return Path(folder) if folder else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "imgcls"


def file_state(key: str) -> tuple[str] | tuple[str, int, int]:
    """A file's real path, size and modification time (ns); for a key that is not the path of a file, the key alone."""
    if not os.path.exists(key):
        return (key,)
    stat = os.stat(key)
    return os.path.realpath(key), stat.st_size, stat.st_mtime_ns


def cached_array(kind: str, key: object, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array that `make` returns, stored under `kind` and `key`: all that it depends on, as values for JSON.

    Beyond ARRAY_BYTES, the arrays of a kind that were not used for the longest time are removed. If the cache cannot be
    written, that is logged and the array returned all the same.
    """
    name = hashlib.sha256(json.dumps([kind, key]).encode()).hexdigest()
    file = cache_folder() / kind / f"{name}.npy"
    try:
        array = np.load(file)
        os.utime(file)
        return array
    except (OSError, ValueError, EOFError):  # it does not exist, or was cut short by a full disk
        array = make()
    try:
        with atomic_file.atomic_write(file) as out:
            np.save(out, array)
        _evict(file.parent)
    except OSError as error:
        log.warning("cannot store %s in %s: %s", kind, file.parent, error.strerror)
    return array


def _evict(folder: Path) -> None:
    """Remove the arrays that were used least recently until the rest fit."""
    room = ARRAY_BYTES
    for file in sorted(folder.glob("*.npy"), key=lambda f: f.stat().st_mtime, reverse=True):
        room -= file.stat().st_size
        if room < 0:
            file.unlink(missing_ok=True)
