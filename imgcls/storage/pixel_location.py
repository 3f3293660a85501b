"""Where kept pixels lie, as --cache says: on disk, in memory, nowhere; and how to be rid of all that is kept."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import shutil
import tempfile
from pathlib import Path

import psutil

from imgcls.errors import OptionError
from imgcls.storage import array_cache, atomic_file
from imgcls.storage.pixel_cache import PixelCache

log = logging.getLogger(__name__)

DISK_SHARE, RAM_SHARE = 0.3, 0.5  # of what is free, unless --cache_gb says more
LEAST_BYTES = 200_000_000  # of room on disk: with less, photos are kept in memory
MEMORY = Path("/dev/shm")  # Linux's memory as a folder
MEMORY_NAME = "imgcls-pixels-"


def open_pixel_cache(kind: str, gigabytes: float | None = None) -> PixelCache:
    """Where --cache says: "auto", "ram", "disk" or "off". gigabytes: as of --cache_gb.

    Raises OptionError when the disk that was asked for cannot be written. In ram they are this launch's alone and gone
    with it.
    """
    if kind == "off":
        return PixelCache()
    wanted = None if gigabytes is None else round(gigabytes * 1e9)
    if kind != "ram":
        place = array_cache.cache_folder() / "pixels"
        try:
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=place):
                pass
            free = shutil.disk_usage(place).free
            held = _held_bytes(place)
            room = round(DISK_SHARE * (free + held)) if wanted is None else min(wanted, free + held)
            if kind == "disk" or wanted is not None or room >= LEAST_BYTES:
                return PixelCache(place, room)
            reason = f"{place} has {atomic_file.format_bytes(free)} free"
        except OSError as error:
            reason = f"{place}: {error.strerror}"
            if kind == "disk":
                raise OptionError(
                    f"Expected a folder for --cache disk that can be written, got {reason}. Name another in "
                    "IMGCLS_CACHE, or give --cache ram."
                ) from error
    place = _memory_folder()
    is_memory = place.parent == MEMORY
    if kind != "ram" or not is_memory:
        where = "memory" if is_memory else place.parent
        log.warning("cache: in %s, for this run alone: %s", where, reason if kind != "ram" else f"no {MEMORY} here")
    free = min(psutil.virtual_memory().available, shutil.disk_usage(place.parent).free)
    share = RAM_SHARE if is_memory else DISK_SHARE
    return PixelCache(place, round(share * free) if wanted is None else min(wanted, free))


def _held_bytes(place: Path) -> int:
    """Of a folder's packs."""
    total = 0
    for pack in place.glob("*.pack"):
        with contextlib.suppress(FileNotFoundError):  # another run makes room
            total += pack.stat().st_size
    return total


def _memory_folder() -> Path:
    """A folder in memory, one for all processes of a launch on this machine; those that no one uses are removed.

    Where the system shows no memory as a folder (macOS, Windows), it is a temporary one.
    """
    place = MEMORY if os.access(MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    for left in place.glob(f"{MEMORY_NAME}*"):  # of a run that was killed
        owner = left.name.removeprefix(MEMORY_NAME)
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(left, ignore_errors=True)
    launched = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) > 1
    owner = os.getppid() if launched else os.getpid()  # processes of a launch have its launcher as their parent
    found = place / f"{MEMORY_NAME}{owner}"
    atexit.register(_remove, found, os.getpid())
    return found


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process and os.environ.get("LOCAL_RANK", "0") == "0":  # no worker of it, no other process
        shutil.rmtree(folder, ignore_errors=True)


def clear_cache() -> None:
    """Remove all that is kept between runs: photos, features, what was found out about files."""
    place = array_cache.cache_folder()
    kinds = ("pixels", "features", "copies")
    files = [place / "inspections.sqlite", *(file for kind in kinds for file in (place / kind).rglob("*"))]
    count = sum(file.stat().st_size for file in files if file.is_file())
    for kind in kinds:
        shutil.rmtree(place / kind, ignore_errors=True)
    (place / "inspections.sqlite").unlink(missing_ok=True)
    log.info("cache: %s removed from %s", atomic_file.format_bytes(count), place)
