"""The inputs of predict.py (files, folders, patterns, a list, URLs) and the images that they name."""

from __future__ import annotations

import glob
import io
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from http.client import HTTPException
from pathlib import Path

from imgcls.data.decoding import is_image
from imgcls.data.listing import is_clutter
from imgcls.errors import ImageError, OptionError, nearest, shorten

LIST = "-"  # a list of files on stdin, one per line
URL_TIMEOUT_S, MAX_URL_BYTES = 20, 100_000_000  # the first: without receiving a byte


def check_inputs(inputs: Sequence[str], *, allow_urls: bool, sort_into: str | None = None) -> None:
    """Raises OptionError for missing inputs, for URLs that are not allowed, and for a `sort_into` inside of an input.

    sort_into: folder for copies of the images.
    """
    if not inputs:
        raise OptionError(f"Expected files, folders, patterns or {LIST} (a list on stdin), got no input. Name images.")
    urls = [name for name in inputs if is_url(name)]
    if urls and not allow_urls:
        raise OptionError(f"Expected files, got URLs: {shorten(urls)}. Set --allow_urls to download them.")
    for name in inputs:
        if name == LIST or is_url(name) or os.path.lexists(name) or (glob.has_magic(name) and _matches(name)):
            continue
        parent = Path(name).parent
        names = [entry.name for entry in parent.iterdir()] if parent.is_dir() else []
        close = f" Nearest in {parent}: {', '.join(nearest(Path(name).name, names))}." if names else ""
        raise OptionError(f"Expected a file, folder or pattern, got {name}, which does not exist.{close}")
    if sort_into:
        _check_outside(sort_into, inputs)


def _check_outside(folder: str, inputs: Iterable[str]) -> None:
    """Raises OptionError for a folder inside of an input: the copies in it would be predicted too."""
    target = Path(folder).resolve()
    for name in inputs:
        if os.path.isdir(name) and target.is_relative_to(Path(name).resolve()):
            raise OptionError(f"Expected --sort_into outside of the images, got {folder} in {name}. Set another.")


def expand_inputs(inputs: Sequence[str], lines: Iterable[str] = ()) -> Iterator[str]:
    """Paths and URLs of the images, always in the same order. lines: of stdin, for the input "-".

    A folder stands for all images below it except hidden ones. A file is taken whatever its suffix. A pattern (`*`,
    `?`, `[a-z]`, `**`) stands for the images that match and, without `**`, those below folders that match.
    """
    for name in inputs:
        if name == LIST:
            yield from (line.rstrip("\r\n") for line in lines if line.strip())
        elif is_url(name) or os.path.lexists(name):
            yield from _below(name) if os.path.isdir(name) else [name]
        else:
            is_recursive = "**" in name  # then the matches include the content of folders
            for path in _matches(name):
                if not os.path.isdir(path):
                    yield from [path] if is_image(path) else []
                elif not is_recursive:
                    yield from _below(path)


def read_stdin() -> Iterable[str]:
    """Lines of stdin; file names need not be valid UTF-8."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    return sys.stdin


def _matches(pattern: str) -> list[str]:
    return sorted(glob.iglob(pattern, recursive=True))


def _below(folder: str, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Images below a folder in sorted order, those of the folder itself first.

    Links to a parent folder are not followed, and folders without read permission are skipped.
    """
    real = os.path.realpath(folder)
    if real in above:
        return
    above = above or tuple(map(str, Path(real).parents))
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if not is_clutter(entry.name))
    except OSError:
        return
    folders = []
    for name in names:
        path = os.path.join(folder, name)
        if os.path.isdir(path):
            folders.append(path)
        elif is_image(path):
            yield path
    for path in folders:
        yield from _below(path, (*above, real))


def is_url(name: str) -> bool:
    """Whether a name is a web address."""
    return name.lower().startswith(("http://", "https://"))


def read_input(name: str, allow_urls: bool) -> str | bytes:
    """What `decoding` reads: the path itself, or the content of a URL. Raises ImageError when a download fails."""
    if not is_url(name):
        return name
    if not allow_urls:  # a URL from the list
        raise ImageError(name) from PermissionError("a URL: set --allow_urls to download it")
    try:
        request = urllib.request.Request(name, headers={"User-Agent": "imgcls"})
        with urllib.request.urlopen(request, timeout=URL_TIMEOUT_S) as response:
            content = response.read(MAX_URL_BYTES + 1)
    except (OSError, HTTPException, ValueError) as error:  # ValueError: a malformed address
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it is a response too, and keeps the connection open
        raise ImageError(name) from error
    if len(content) > MAX_URL_BYTES:
        raise ImageError(name) from ValueError(f"larger than {MAX_URL_BYTES // 1_000_000} MB")
    return content
