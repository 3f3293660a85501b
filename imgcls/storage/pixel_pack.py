"""A file of many images' pixels with an index next to it; safe against kills and several processes at once.

A pack has one writer, which appends pixels first and then their entry in the index: an entry that can be read has its
pixels. Packs are read, not mapped: a file that is cut short would kill a process that has it mapped, and mapped pages
count as the process's memory.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
import uuid
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

ENTRY = np.dtype([("key", "V16"), ("offset", "<u8"), ("shape", "<u4", 3), ("checksum", "<u4")])  # of an index
MARK_INTERVAL_S = 60  # how often the time of a pack in use is set


class PackEntry(NamedTuple):
    """Where an image's pixels are: pack, offset in bytes, shape (any three axes), checksum of shape and pixels."""

    pack: PixelPack
    offset: int
    shape: tuple[int, int, int]
    checksum: int


class PixelPack:
    """One pack: `path` and its index, the same name with the suffix .index."""

    def __init__(self, path: Path):
        self.path = path
        self.index = path.with_suffix(".index")
        self.size = 0  # bytes of pixels that this object appended
        self.used_at = 0.0  # when this process last marked the pack as in use
        self._index_end = 0  # bytes of the index that were read

    @classmethod
    def create(cls, folder: Path) -> PixelPack:
        """A new, empty pack in `folder`, which is created too. Raises OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        pack = cls(folder / f"{uuid.uuid4().hex}.pack")
        pack.path.touch()
        return pack

    def has_own_size(self) -> bool:
        """Whether the file holds exactly what this object appended, so that it can be appended to."""
        try:
            return self.path.stat().st_size == self.size
        except OSError:
            return False

    def append(self, key: bytes, pixels: np.ndarray) -> PackEntry:
        """Write pixels, contiguous uint8 of three axes, under a key of 16 bytes. Raises OSError."""
        with open(self.path, "ab") as file:
            entry = PackEntry(self, file.tell(), pixels.shape, _checksum(pixels))
            file.write(pixels.data)
        with open(self.index, "ab") as file:
            file.write(np.array((key, *entry[1:]), ENTRY).tobytes())
        self.size += pixels.nbytes
        self.used_at = self.used_at or time.time()
        return entry

    def new_entries(self) -> list[tuple[bytes, PackEntry]]:
        """Key and entry of the images that were added to the index since the last call; none if it was removed."""
        start = self._index_end
        try:
            if self.index.stat().st_size < start + ENTRY.itemsize:
                return []
            with open(self.index, "rb") as file:
                file.seek(start)
                content = file.read()
        except OSError:
            return []
        entries = np.frombuffer(content[: len(content) // ENTRY.itemsize * ENTRY.itemsize], ENTRY)
        self._index_end = start + entries.nbytes  # not +=: another thread may have read the same entries
        columns = (entries[name].tolist() for name in ("key", "offset", "shape", "checksum"))
        return [
            (bytes(key), PackEntry(self, offset, tuple(shape), checksum))
            for key, offset, shape, checksum in zip(*columns, strict=True)
        ]

    def read(self, entry: PackEntry, *, verify: bool) -> np.ndarray | None:
        """The pixels of an entry as a new array; None if the pack was removed, cut short or damaged.

        verify: compare the checksum.
        """
        try:
            with open(self.path, "rb", buffering=0) as file:
                self._mark_used()
                if os.fstat(file.fileno()).st_size < entry.offset + math.prod(entry.shape):
                    return None  # before memory is allocated: a damaged entry may have any shape
                pixels = np.empty(entry.shape, np.uint8)
                file.seek(entry.offset)
                count = file.readinto(pixels.data.cast("B"))
        except OSError:
            return None
        if count != pixels.nbytes or (verify and _checksum(pixels) != entry.checksum):
            return None
        return pixels

    def remove(self) -> None:
        """Remove both files. Raises OSError."""
        self.index.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def _mark_used(self) -> None:
        """Set the file's time, by which other runs see that the pack is in use."""
        if time.time() > self.used_at + MARK_INTERVAL_S:
            with contextlib.suppress(OSError):  # another user's file
                os.utime(self.path)
            self.used_at = time.time()


def _checksum(pixels: np.ndarray) -> int:
    return zlib.crc32(pixels.data, zlib.crc32(repr(pixels.shape).encode()))
