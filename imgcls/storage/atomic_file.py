"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[io.BufferedWriter]:
    """Open a binary file that gets the name `path` when the block ends; after an error nothing is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_write_text(path: Path) -> Iterator[io.TextIOWrapper]:
    """Like `atomic_write`, in UTF-8; line ends, and bytes of file names that are not valid UTF-8, stay as they are."""
    with atomic_write(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
        yield text
        text.detach()  # writes what is buffered and leaves `file` open


def format_bytes(count: float) -> str:
    """A number of bytes for people: 3 kB, 57 MB, 1.2 GB."""
    if count < 1e6:
        return f"{count / 1e3:.0f} kB"
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
