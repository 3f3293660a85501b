"""What predict.py is given -> the images that it means, one after the other: files, folders, patterns, a list, URLs."""

from __future__ import annotations

import glob
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

LIST = "-"  # a list of files, a line each, on stdin
URL_WAIT_S, URL_BYTES = 20, 100_000_000  # without a byte so long, or larger: it is not waited for


def check_inputs(inputs: Sequence[str], allow_urls: bool) -> None:
    """Raises OptionError for an input that is not there, and for URLs that were not allowed."""
    if not inputs:
        raise OptionError(f"Expected files, folders, patterns or {LIST} (a list on stdin), got nothing to look at.")
    urls = [name for name in inputs if is_url(name)]
    if urls and not allow_urls:
        raise OptionError(f"Expected files, got URLs: {shorten(urls)}. Give --allow_urls to have them downloaded.")
    for name in inputs:
        if name == LIST or is_url(name) or os.path.lexists(name) or (glob.has_magic(name) and _matches(name)):
            continue
        parent = Path(name).parent
        beside = [entry.name for entry in parent.iterdir()] if parent.is_dir() else []
        close = f" Nearest in {parent}: {', '.join(nearest(Path(name).name, beside))}." if beside else ""
        raise OptionError(f"Expected a file, folder or pattern, got {name}, which is not there.{close}")


def expand_inputs(inputs: Sequence[str], lines: Iterable[str] = ()) -> Iterator[str]:
    """Paths and URLs in an order that is the same at every call. lines: of stdin, for the input "-".

    Folders give all images below them, hidden ones left out; a file that is named is taken whatever its suffix. Of a
    pattern (`*`, `?`, `[a-z]`, `**`) all images that match, and without `**` those below folders that match.
    """
    for name in inputs:
        if name == LIST:
            yield from (line.rstrip("\r\n") for line in lines if line.strip())
        elif is_url(name) or os.path.lexists(name):
            yield from _below(name) if os.path.isdir(name) else [name]
        else:
            deep = "**" in name  # then the matches hold what is in the folders
            for found in _matches(name):
                if not os.path.isdir(found):
                    yield from [found] if is_image(found) else []
                elif not deep:
                    yield from _below(found)


def read_stdin() -> Iterable[str]:
    """Lines of stdin; names on disk may be no UTF-8."""
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="surrogateescape")
    return sys.stdin


def _matches(pattern: str) -> list[str]:
    return sorted(glob.iglob(pattern, recursive=True))


def _below(folder: str, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Images below a folder in sorted order, those of the folder itself first; links that lead upwards are not
    followed, and folders that must not be read are left out."""
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
    """Whether a name is an address of the web."""
    return name.lower().startswith(("http://", "https://"))


def read_input(name: str, allow_urls: bool) -> str | bytes:
    """What `decoding` reads: the path itself, or what a URL holds. Raises ImageError when that is not to be had."""
    if not is_url(name):
        return name
    if not allow_urls:  # of a list
        raise ImageError(name) from PermissionError("a URL: give --allow_urls to have it downloaded")
    try:
        request = urllib.request.Request(name, headers={"User-Agent": "imgcls"})
        with urllib.request.urlopen(request, timeout=URL_WAIT_S) as answer:
            found = answer.read(URL_BYTES + 1)
    except (OSError, HTTPException, ValueError) as error:  # the last: addresses that are none
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it is an answer too, and holds the connection
        raise ImageError(name) from error
    if len(found) > URL_BYTES:
        raise ImageError(name) from ValueError(f"larger than {URL_BYTES // 1_000_000} MB")
    return found
