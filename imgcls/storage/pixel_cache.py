"""Decoded images, stored as uint8 between epochs and runs; safe against kills and several runs at once."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch.utils.data import get_worker_info

from imgcls.storage import array_cache, atomic_file
from imgcls.storage.pixel_pack import PackEntry, PixelPack
from imgcls.system.threads import map_in_threads

log = logging.getLogger(__name__)

VERSION = 2  # of the stored pixels; part of every key, so pixels of another version are not read
PACK_BYTES = 256_000_000  # size at which a writer starts a new pack; packs are evicted as a whole


class CacheRequest(NamedTuple):
    """An image to read: its key, and the function that computes it if it is not in the cache."""

    key: bytes
    make: Callable[[], np.ndarray]


def cache_key(image: str, settings: object) -> bytes:
    """Key of an image's pixels: a hash of the file's path, size and time (or the image's name) and of `settings`."""
    return hashlib.blake2b(repr((VERSION, array_cache.file_state(image), settings)).encode(), digest_size=16).digest()


class PixelCache:
    """Images as uint8 of three axes, by key, in the packs of `folder`; None stores nothing.

    most_bytes: limit of all packs in the folder together. Packs that no process used since this object was created are
    removed for new ones, the least recently used first. Copies in other processes (workers) write packs of their own
    and find what the others wrote.
    """

    def __init__(self, folder: Path | None = None, most_bytes: int = 0):
        self.folder, self.most_bytes = folder, most_bytes
        self.is_full = folder is None
        self._created_at = time.time()
        self._packs: dict[str, PixelPack] = {}  # by name without suffix
        self._entries: dict[bytes, PackEntry] = {}
        self._verified: set[bytes] = set()
        self._enter_process()
        self._refresh()
        self._initial_count = len(self._entries)

    def __getstate__(self) -> dict:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self._enter_process()

    def _enter_process(self) -> None:
        """Lock and written pack belong to one process: a fork or a copy gets new ones."""
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._own_pack: PixelPack | None = None
        self._room = 0  # bytes that may be written before the size of the folder is looked at again

    def read(self, requests: Sequence[CacheRequest]) -> list[np.ndarray]:
        """The requested images, in order; those not in the cache are computed, one thread per core, and added.

        Raises what `make` raises.
        """
        images = [self.get(request.key) for request in requests]
        missing = [i for i, pixels in enumerate(images) if pixels is None]
        if missing and self._refresh():  # another process may have added them
            for i in missing:
                images[i] = self.get(requests[i].key)
            missing = [i for i in missing if images[i] is None]
        makers = {requests[i].key: requests[i].make for i in reversed(missing)}
        computed = dict(zip(makers, map_in_threads(list(makers.values())), strict=True))
        for key, pixels in computed.items():
            self._add(key, pixels, is_optional=False)
        return [
            computed[request.key] if pixels is None else pixels
            for request, pixels in zip(requests, images, strict=True)
        ]

    def get(self, key: bytes) -> np.ndarray | None:
        """An image of the cache as a new array; None if it is not, or no longer, in the cache."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        pixels = entry.pack.read(entry, verify=key not in self._verified)
        if pixels is None:
            self._entries.pop(key, None)
            self._verified.discard(key)
        else:
            self._verified.add(key)
        return pixels

    def add(self, key: bytes, pixels: np.ndarray) -> None:
        """Add an image, uint8 of three axes, that may be useful later, if there is room; from any thread."""
        self._add(key, pixels, is_optional=True)

    def count(self, keys: Iterable[bytes]) -> int:
        """Number of these keys that are in the cache."""
        self._refresh()
        return sum(key in self._entries for key in keys)

    def count_added(self) -> int:
        """Number of images that this and other processes added since the object was created."""
        self._refresh()
        return len(self._entries) - self._initial_count

    def shape(self, key: bytes) -> tuple[int, int, int]:
        """Shape of an image in the cache. Raises KeyError for others."""
        return self._entries[key].shape

    def _refresh(self) -> bool:
        """Read what was added to the folder's indexes since the last call; whether images are new."""
        if self.folder is None:
            return False
        before = len(self._entries)
        for index in sorted(self.folder.glob("*.index"), key=_modified_at):  # of a key's entries the newest counts
            pack = self._packs.setdefault(index.stem, PixelPack(index.with_suffix(".pack")))
            self._entries.update(pack.new_entries())
        return len(self._entries) > before

    def _add(self, key: bytes, pixels: np.ndarray, *, is_optional: bool) -> None:
        if self._process != os.getpid():
            self._enter_process()
        with self._lock:
            if self.folder is None or self.is_full or key in self._entries:
                return
            pixels = np.ascontiguousarray(pixels)
            try:
                pack = self._writable_pack(self.folder, pixels.nbytes)
                if self._has_room(self.folder, pixels.nbytes):
                    self._entries[key] = pack.append(key, pixels)
                    self._room -= pixels.nbytes
                    self._verified.add(key)
                elif not is_optional:
                    self._stop(f"the limit of {atomic_file.format_bytes(self.most_bytes)} is reached (--cache_gb)")
            except OSError as error:
                self._stop(f"{error.strerror} in {self.folder}")

    def _stop(self, reason: str) -> None:
        self.is_full = True
        worker = get_worker_info()
        if worker is None or worker.id == 0:  # otherwise each worker would log it
            log.warning("pixel cache: %s; further images are decoded in every epoch", reason)

    def _writable_pack(self, folder: Path, count: int) -> PixelPack:
        """This process's pack; a new one if `count` bytes more are too many for it, or if its file was changed."""
        pack = self._own_pack
        if pack is None or pack.size + count > PACK_BYTES or not pack.has_own_size():
            pack = self._own_pack = PixelPack.create(folder)
            self._packs[pack.path.stem] = pack
            self._room = 0
        return pack

    def _has_room(self, folder: Path, count: int) -> bool:
        """Whether `count` bytes may be written; removes old packs if that is needed."""
        if self._room < count:
            free = self.most_bytes - self._evict(folder, count)
            # at most a sixteenth of what is free at a time: other processes write too
            self._room = min(PACK_BYTES, free if free < count else max(count, free // 16))
        return self._room >= count

    def _evict(self, folder: Path, count: int) -> int:
        """Remove packs unused since this object was created until `count` bytes fit; returns the bytes that remain.

        Packs of another run stay while it uses them: it sets their time.
        """
        packs = []
        for path in folder.glob("*.pack"):
            try:
                stat = path.stat()
            except OSError:
                continue
            packs.append((stat.st_mtime, stat.st_size, path.stem))
        total = sum(size for _, size, _ in packs)
        for used_at, size, name in sorted(packs):
            if total + count <= self.most_bytes or used_at >= self._created_at:
                break
            pack = self._packs.get(name) or PixelPack(folder / f"{name}.pack")
            if not pack.used_at:  # else this process uses it, whatever time a file server gave it
                pack.remove()
                total -= size
        return total


def _modified_at(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0
