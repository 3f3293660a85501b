"""Decoded images kept as uint8 between epochs and runs, packed in files; safe against kills and several runs at once.

A pack is a file of pixels with an index beside it. It has one writer, which appends pixels first and then their entry,
so an entry that can be read has its pixels; whoever reads them first compares a sum. Packs are read, not mapped: a
file cut short would kill a process that has it mapped, and mapped pages count as the process's memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import os
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import get_worker_info

from imgcls.storage import array_cache, atomic_file
from imgcls.system import cpu

log = logging.getLogger(__name__)

VERSION = 2  # of how pixels are kept: those of another version are not read
PACK_BYTES = 256_000_000  # from here a writer begins a new pack: room is made a pack at a time
ENTRY = np.dtype([("key", "V16"), ("offset", "<u8"), ("shape", "<u4", 3), ("sum", "<u4")])


class CacheRequest(NamedTuple):
    """An image that is wanted: its key, and how it is made when it is not kept."""

    key: bytes
    make: Callable[[], np.ndarray]


class PackEntry(NamedTuple):
    """Where pixels lie: the pack's file, the offset in bytes, (rows, columns, channels) or any other three, a sum."""

    pack: Path
    offset: int
    shape: tuple[int, int, int]
    sum: int


def cache_key(image: str, settings: object) -> bytes:
    """What pixels are kept under: the file's path, size and time (or an image's name), and what they depend on."""
    return hashlib.blake2b(repr((VERSION, array_cache.file_state(image), settings)).encode(), digest_size=16).digest()


class PixelCache:
    """Images as uint8 of three axes, by key, in packs below `folder`; None keeps nothing.

    most_bytes: of all packs in the folder together; those that no one used since this object was made give way to new
    ones, the least recently used first. Copies in other processes (workers) write packs of their own and find what the
    others wrote.
    """

    def __init__(self, folder: Path | None = None, most_bytes: int = 0):
        self.folder, self.most_bytes = folder, most_bytes
        self.is_full = folder is None
        self._made = time.time()
        self._known: dict[bytes, PackEntry] = {}
        self._read_to: dict[str, int] = {}
        self._sound: set[bytes] = set()
        self._marked: dict[Path, float] = {}  # when we last said that a pack is in use
        self._enter_process()
        self._look()
        self._at_start = len(self._known)

    def __getstate__(self) -> dict:
        return {name: value for name, value in vars(self).items() if name not in ("_lock", "_pool")}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self._enter_process()

    def _enter_process(self) -> None:
        """Threads and the pack that is written belong to one process, and are not shared after a fork."""
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._pack: Path | None = None  # that this process writes
        self._pack_bytes = self._room = 0

    def read(self, wanted: Sequence[CacheRequest]) -> list[np.ndarray]:
        """The images that are wanted, in their order; those that are not kept are made, a thread a core, and kept.

        Raises what `make` raises.
        """
        found = [self._kept(image.key) for image in wanted]
        missing = [i for i, pixels in enumerate(found) if pixels is None]
        if missing and self._look():  # another process may have made them meanwhile
            for i in missing:
                found[i] = self._kept(wanted[i].key)
            missing = [i for i in missing if found[i] is None]
        first = {wanted[i].key: i for i in reversed(missing)}
        made = dict(zip(first, self.each([wanted[i].make for i in first.values()]), strict=True))
        for key, pixels in made.items():
            self._keep(key, pixels)
        for i in missing:
            found[i] = made[wanted[i].key]
        return found

    def get(self, key: bytes) -> np.ndarray | None:
        """An image that is kept, as an array of its own; None where it is not, or not any more."""
        return self._kept(key)

    def keep(self, key: bytes, pixels: np.ndarray) -> None:
        """Keep an image, uint8 of three axes, that may be of use later, if there is room; for any thread."""
        if self._process != os.getpid():
            self._enter_process()
        self._keep(key, pixels, is_needed=False)

    def each(self, work: Sequence[Callable[[], object]]) -> list:
        """What each piece of work returns: a thread a core; one after the other in a worker, beside other workers."""
        if self._process != os.getpid():
            self._enter_process()
        if len(work) < 2 or get_worker_info() is not None:
            return [piece() for piece in work]
        if self._pool is None:
            self._pool = _threads(cpu.available_cores())
        return list(self._pool.map(lambda piece: piece(), work))

    def added(self) -> int:
        """How many images this and other processes added since the object was made."""
        self._look()
        return len(self._known) - self._at_start

    def holds(self, keys: Iterable[bytes]) -> int:
        """How many of these keys are kept."""
        self._look()
        return sum(key in self._known for key in keys)

    def shape(self, key: bytes) -> tuple[int, int, int]:
        """Of an image that is kept. Raises KeyError for others."""
        return self._known[key].shape

    def _look(self) -> bool:
        """Learn what was added to the folder's indexes since the last look; whether there was anything new."""
        if self.folder is None:
            return False
        before = len(self._known)
        for file in sorted(self.folder.glob("*.index"), key=_written):  # what was made anew counts
            start = self._read_to.get(file.name, 0)
            try:
                if file.stat().st_size < start + ENTRY.itemsize:
                    continue
                with open(file, "rb") as index:
                    index.seek(start)
                    content = index.read()
            except OSError:  # removed by another run
                continue
            entries = np.frombuffer(content[: len(content) // ENTRY.itemsize * ENTRY.itemsize], ENTRY)
            pack = file.with_suffix(".pack")
            columns = (entries[name].tolist() for name in ("key", "offset", "shape", "sum"))
            for key, offset, shape, of_sum in zip(*columns, strict=True):
                self._known[bytes(key)] = PackEntry(pack, offset, tuple(shape), of_sum)
            self._read_to[file.name] = start + entries.nbytes
        return len(self._known) > before

    def _kept(self, key: bytes) -> np.ndarray | None:
        """Pixels that are kept, as an array of their own; None when they are not, or not any more."""
        place = self._known.get(key)
        if place is None:
            return None
        is_whole = False
        # another run may have removed the pack: the caller then makes the image anew
        with contextlib.suppress(OSError), open(place.pack, "rb", buffering=0) as pack:
            if os.fstat(pack.fileno()).st_size >= place.offset + math.prod(place.shape):
                pixels = np.empty(place.shape, np.uint8)
                pack.seek(place.offset)
                is_whole = pack.readinto(pixels.data.cast("B")) == pixels.nbytes
            self._mark(place.pack)
        if is_whole and key not in self._sound:
            is_whole = _sum(pixels) == place.sum
            self._sound.add(key)
        if not is_whole:
            self._known.pop(key, None)
            self._sound.discard(key)
            return None
        return pixels

    def _mark(self, pack: Path) -> None:
        if time.time() > self._marked.get(pack, 0) + 60:
            with contextlib.suppress(OSError):
                os.utime(pack)
            self._marked[pack] = time.time()

    def _keep(self, key: bytes, pixels: np.ndarray, *, is_needed: bool = True) -> None:
        with self._lock:
            if self.is_full or key in self._known:
                return
            pixels = np.ascontiguousarray(pixels)
            try:
                if not self._has_room(pixels.nbytes):
                    if is_needed:
                        self._stop(f"{atomic_file.format_bytes(self.most_bytes)} are full (--cache_gb)")
                    return
                with open(self._pack, "ab") as pack:
                    place = PackEntry(self._pack, pack.tell(), pixels.shape, _sum(pixels))
                    pack.write(pixels.data)
                with open(self._pack.with_suffix(".index"), "ab") as index:
                    index.write(np.array((key, *place[1:]), ENTRY).tobytes())
            except OSError as error:
                self._stop(f"{error.strerror} in {self.folder}")
                return
            self._room -= pixels.nbytes
            self._pack_bytes += pixels.nbytes
            self._known[key] = place
            self._sound.add(key)
            self._marked.setdefault(place.pack, time.time())

    def _stop(self, reason: str) -> None:
        self.is_full = True
        worker = get_worker_info()
        if worker is None or worker.id == 0:  # else each worker would say it
            log.warning("cache: %s: images from here on are decoded in every epoch", reason)

    def _has_room(self, count: int) -> bool:
        """Whether so many bytes may be written; opens a new pack and makes room where that is needed."""
        if self._pack is None or self._pack_bytes + count > PACK_BYTES or _size(self._pack) != self._pack_bytes:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._pack, self._pack_bytes, self._room = self.folder / f"{uuid.uuid4().hex}.pack", 0, 0
            self._pack.touch()
        if self._room < count:
            left = self.most_bytes - self._make_room(count)
            self._room = min(PACK_BYTES, left if left < count else max(count, left // 16))
        return self._room >= count

    def _make_room(self, count: int) -> int:
        """Remove packs that no one has used since this object was made until `count` bytes fit; the bytes that remain.

        Another run's packs stay while it uses them: it marked them so.
        """
        packs = []
        for pack in self.folder.glob("*.pack"):
            try:
                stat = pack.stat()
            except OSError:
                continue
            packs.append((stat.st_mtime, stat.st_size, pack))
        total = sum(size for _, size, _ in packs)
        for used, size, pack in sorted(packs, key=lambda known: known[:2]):
            if total + count <= self.most_bytes or used >= self._made:
                break
            if pack in self._marked:
                continue
            pack.with_suffix(".index").unlink(missing_ok=True)
            pack.unlink(missing_ok=True)
            total -= size
        return total


def _written(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def _size(file: Path) -> int | None:
    try:
        return file.stat().st_size
    except OSError:
        return None


def _sum(pixels: np.ndarray) -> int:
    return zlib.crc32(pixels, zlib.crc32(repr(pixels.shape).encode()))


def _threads(count: int) -> ThreadPoolExecutor:
    """Threads of which each does torch's work alone: images side by side are quicker than each torn apart."""
    before, all_began = torch.get_num_threads(), threading.Barrier(count)

    def begin(_) -> None:
        torch.get_num_threads()  # else torch sets its own at this thread's first work
        torch.set_num_threads(1)
        all_began.wait()

    pool = ThreadPoolExecutor(count)
    list(pool.map(begin, range(count)))
    torch.set_num_threads(before)  # which the others' setting had changed for threads to come
    return pool
