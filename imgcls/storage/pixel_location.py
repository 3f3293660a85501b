"""Where the pixel cache is, as --cache says: on disk, in memory, nowhere; and how all caches are removed."""

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

DISK_FRACTION, MEMORY_FRACTION = 0.3, 0.5  # of the free bytes, unless --cache_gb sets a limit
LEAST_BYTES = 200_000_000  # with less room on disk, the cache is in memory
MEMORY = Path("/dev/shm")  # Linux's memory as a folder
MEMORY_NAME = "imgcls-pixels-"


def open_pixel_cache(kind: str, gigabytes: float | None = None) -> PixelCache:
    """The cache for a value of --cache: "auto", "ram", "disk" or "off". gigabytes: see --cache_gb.

    auto: on disk, or in memory where the disk cannot be written or is nearly full. In memory the cache belongs to this
    launch and is removed with it. Raises OptionError when kind is "disk" and the disk cannot be written.
    """
    if kind == "off":
        return PixelCache()
    limit = None if gigabytes is None else round(gigabytes * 1e9)
    if kind == "ram":
        return _open_in_memory(limit)
    folder = array_cache.cache_folder() / "pixels"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        free = shutil.disk_usage(folder).free
        available = free + _pack_bytes(folder)
    except OSError as error:
        reason = f"{folder}: {error.strerror}"
        if kind == "disk":
            raise OptionError(
                f"Expected a folder for --cache disk that can be written, got {reason}. Set another folder in "
                "IMGCLS_CACHE, or use --cache ram."
            ) from error
        return _open_in_memory(limit, reason)
    room = round(DISK_FRACTION * available) if limit is None else min(limit, available)
    if kind == "auto" and limit is None and room < LEAST_BYTES:
        return _open_in_memory(limit, f"{folder} has {atomic_file.format_bytes(free)} free")
    return PixelCache(folder, room)


def _open_in_memory(limit: int | None, reason: str | None = None) -> PixelCache:
    """A cache in memory, or in a temporary folder where there is none. reason: why it is not on disk, to be logged."""
    folder = _memory_folder()
    is_memory = folder.parent == MEMORY
    if not is_memory and reason is None:
        reason = f"this system has no {MEMORY}"
    if reason:
        log.warning("pixel cache: in %s, for this run only: %s", "memory" if is_memory else folder.parent, reason)
    free = min(psutil.virtual_memory().available, shutil.disk_usage(folder.parent).free)
    fraction = MEMORY_FRACTION if is_memory else DISK_FRACTION
    return PixelCache(folder, round(fraction * free) if limit is None else min(limit, free))


def _pack_bytes(folder: Path) -> int:
    """Size of all packs in a folder."""
    total = 0
    for pack in folder.glob("*.pack"):
        with contextlib.suppress(FileNotFoundError):  # another run removed it to make room
            total += pack.stat().st_size
    return total


def _memory_folder() -> Path:
    """A folder in memory, the same for all processes of a launch on this machine; it is removed at exit.

    Folders of runs that were killed are removed first. Where the system does not provide memory as a folder (macOS,
    Windows), it is a temporary folder.
    """
    parent = MEMORY if os.access(MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    for old in parent.glob(f"{MEMORY_NAME}*"):
        process = old.name.removeprefix(MEMORY_NAME)
        if process.isdigit() and not psutil.pid_exists(int(process)):
            shutil.rmtree(old, ignore_errors=True)
    is_launched = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) > 1
    process = os.getppid() if is_launched else os.getpid()  # processes of a launch have its launcher as their parent
    folder = parent / f"{MEMORY_NAME}{process}"
    atexit.register(_remove_at_exit, folder, os.getpid())
    return folder


def _remove_at_exit(folder: Path, process: int) -> None:
    """Remove the folder, unless this is a fork of `process` (such as a worker) or not the launch's first process."""
    if os.getpid() == process and os.environ.get("LOCAL_RANK", "0") == "0":
        shutil.rmtree(folder, ignore_errors=True)


def clear_cache() -> None:
    """Remove all that is stored between runs: pixels, features, inspections of files."""
    root = array_cache.cache_folder()
    names = ("pixels", "features", "precision", "copies")  # copies: of near-duplicates, by earlier versions
    inspections = root / "inspections.sqlite"
    files = [inspections, *(file for name in names for file in (root / name).rglob("*"))]
    count = sum(file.stat().st_size for file in files if file.is_file())
    for name in names:
        shutil.rmtree(root / name, ignore_errors=True)
    inspections.unlink(missing_ok=True)
    log.info("cache: %s removed from %s", atomic_file.format_bytes(count), root)
