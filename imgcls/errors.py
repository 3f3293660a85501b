"""Every error a user can meet, and the nearest-name helper.

ImgclsError
├── OptionError       an option's value cannot be used
├── FolderError       the data folder, CSV or data set is not what it must be
├── ImageError        one image cannot be read
├── ModelError        a checkpoint cannot be found, loaded or fitted to the task
├── RunError          a run folder is missing, taken, or not what it must be
├── HubError          the Hub refuses, does not answer, or an upload fails
├── MetricError       numbers that cannot be computed from what was given
└── LaunchError       the processes or the machine are not as the command believes
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ImgclsError(Exception):
    """Anything that went wrong and that the user can mend; the message says how."""


class OptionError(ImgclsError):
    """An option's value cannot be used."""


class FolderError(ImgclsError):
    """The data folder, CSV or data set is not what it must be."""


class ImageError(ImgclsError):
    """One image cannot be read."""


class ModelError(ImgclsError):
    """A checkpoint cannot be found, loaded or fitted to the task."""


class RunError(ImgclsError):
    """A run folder is missing, taken, or not what it must be."""


class HubError(ImgclsError):
    """The Hub refuses, does not answer, or an upload fails."""


class MetricError(ImgclsError):
    """Numbers that cannot be computed from what was given."""


class LaunchError(ImgclsError):
    """The processes or the machine are not as the command believes."""


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The `count` known names most like `name`, best first (Ratcliff/Obershelp similarity, `difflib`)."""
    known = list(known)
    folded = {k.lower(): k for k in known}
    close = difflib.get_close_matches(name.lower(), folded, n=count, cutoff=0.0)
    return [folded[k] for k in close]


def shorten(items: Iterable, limit: int = 5) -> str:
    """Sorted items as text, cut to `limit`: "a, b, c and 4 more"."""
    items = sorted(map(str, items))
    text = ", ".join(items[:limit])
    return text if len(items) <= limit else f"{text} and {len(items) - limit} more"
