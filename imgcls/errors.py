"""The error classes, and how names, lists and other libraries' errors are shown in a message.

ImgclsError
├── OptionError       an option's value cannot be used
├── FolderError       the data folder, CSV file or data set cannot be used
├── ImageError        one image cannot be read
├── ModelError        a model cannot be found, loaded or adapted to the task
├── RunError          a run folder is missing, belongs to another run, or is damaged
├── HubError          the Hub refuses a request, does not respond, or an upload fails
├── MetricError       a metric cannot be computed from its inputs
└── LaunchError       the processes or the machine do not match the command
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ImgclsError(Exception):
    """An error that the user can fix; the message says how."""


class OptionError(ImgclsError):
    """An option's value cannot be used."""


class FolderError(ImgclsError):
    """The data folder, CSV file or data set cannot be used."""


class ImageError(ImgclsError):
    """One image cannot be read."""


class ModelError(ImgclsError):
    """A model cannot be found, loaded or adapted to the task."""


class RunError(ImgclsError):
    """A run folder is missing, belongs to another run, or is damaged."""


class HubError(ImgclsError):
    """The Hub refuses a request, does not respond, or an upload fails."""


class MetricError(ImgclsError):
    """A metric cannot be computed from its inputs."""


class LaunchError(ImgclsError):
    """The processes or the machine do not match the command."""


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The `count` known names most similar to `name`, best first (Ratcliff/Obershelp similarity, see `difflib`)."""
    known = list(known)
    folded = {k.lower(): k for k in known}
    close = difflib.get_close_matches(name.lower(), folded, n=count, cutoff=0.0)
    return [folded[k] for k in close]


def shorten(items: Iterable, limit: int = 5) -> str:
    """Sorted items as text, cut to `limit`: "a, b, c and 4 more"."""
    items = sorted(map(str, items))
    text = ", ".join(items[:limit])
    return text if len(items) <= limit else f"{text} and {len(items) - limit} more"


def one_line(error: object, limit: int | None = 200) -> str:
    """The text of an error (or any object) on one line: white space becomes single spaces, cut to `limit` characters.

    limit: None does not cut.
    """
    return " ".join(str(error).split())[:limit]
