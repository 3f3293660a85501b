"""Images that belong together (a patient, a video, a burst, copies of one picture) and must not be torn apart."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from imgcls.config.data_options import REGEX_PREFIX
from imgcls.data.listing import ImageFile
from imgcls.errors import OptionError

BURST_S = 10  # pictures taken within so many seconds of the one before belong together


def group_by_rule(rule: str, files: Sequence[ImageFile], taken: np.ndarray) -> np.ndarray:
    """Pairs of positions, int (P, 2), that tie together what a rule of --group_by finds together.

    folder: images in one folder below their class folder; folders of the same name below several classes are one (a
    patient may have two diagnoses). regex: images in which the pattern's first group, or else all of it, finds the
    same text; the path from the class folder on is searched. exif_time: images taken within BURST_S of the next.
    taken: seconds, 0 where unknown. Raises OptionError when a rule finds nothing to go by.
    """
    if rule == "none":
        return np.zeros((0, 2), int)
    if rule == "exif_time":
        known = np.flatnonzero(taken)
        if not len(known):
            raise OptionError("Expected EXIF times for --group_by exif_time, got none in any image. Leave it out.")
        order = known[np.argsort(taken[known], kind="stable")]
        near = np.diff(taken[order]) <= BURST_S
        return np.stack([order[:-1][near], order[1:][near]], 1)
    names = [_name(rule, file) for file in files]
    if not any(name is not None for name in names):
        what = "folders below the class folders" if rule == "folder" else "a match of the pattern in some path"
        raise OptionError(f"Expected {what} for --group_by {rule}, got none among {len(names)} images.")
    last: dict[str, int] = {}
    pairs = []
    for i, name in enumerate(names):
        if name is not None:
            if name in last:
                pairs.append((last[name], i))
            last[name] = i
    return np.array(pairs, int).reshape(-1, 2)


def _name(rule: str, file: ImageFile) -> str | None:
    parts = file.path.split("/")
    first = 1 if file.split and len(parts) > 2 else 0  # a split's folder may be called like a class
    at = next((i for i, part in enumerate(parts[:-1]) if part == file.label and i >= first), None)
    below = file.path if at is None else "/".join(parts[at + 1 :])
    if rule == "folder":
        return None if at is None else below.rpartition("/")[0] or None
    found = re.search(rule.removeprefix(REGEX_PREFIX), below)
    return None if found is None else next(iter(found.groups()), found.group())


def merge_groups(count: int, *pairs: np.ndarray) -> np.ndarray:
    """Number of the group of each of `count` images, when each pair of positions belongs together."""
    first, second = np.concatenate([np.zeros((0, 2), int), *pairs]).T
    return connected_components(
        coo_array((np.ones(len(first), bool), (first, second)), (count, count)), directed=False
    )[1]


def group_members(numbers: np.ndarray) -> list[np.ndarray]:
    """Positions of each group of two or more; negative numbers are no group."""
    order = np.argsort(numbers, kind="stable")
    found = np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1)
    return [group for group in found if len(group) > 1 and numbers[group[0]] >= 0]
