"""Groups of images that must not be split: a patient, a video, a burst, duplicates of one picture."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from imgcls.config.data_options import REGEX_PREFIX
from imgcls.data.listing import ImageFile
from imgcls.errors import OptionError

BURST_S = 10  # seconds: images taken at most this long after the one before belong together


def group_by_rule(rule: str, files: Sequence[ImageFile], taken: np.ndarray) -> np.ndarray:
    """Pairs of positions, int (P, 2), of images that a rule of --group_by keeps together.

    folder: images in one folder below their class folder; folders of the same name below several classes are one (a
    patient may have two diagnoses). regex: images with the same text in the pattern's first group, or in its whole
    match without a group; the path below the class folder is searched. exif_time: images taken within BURST_S of the
    one before. taken: seconds, 0 if unknown. Raises OptionError if a rule matches no image.
    """
    if rule == "none":
        return np.zeros((0, 2), int)
    if rule == "exif_time":
        return _bursts(taken)
    names = [_group_name(rule, file) for file in files]
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


def _bursts(taken: np.ndarray) -> np.ndarray:
    known = np.flatnonzero(taken)
    if not len(known):
        raise OptionError("Expected EXIF times for --group_by exif_time, got none in any image. Leave it out.")
    order = known[np.argsort(taken[known], kind="stable")]
    is_near = np.diff(taken[order]) <= BURST_S
    return np.stack([order[:-1][is_near], order[1:][is_near]], 1)


def _group_name(rule: str, file: ImageFile) -> str | None:
    parts = file.path.split("/")
    first = 1 if file.split and len(parts) > 2 else 0  # the folder of a split may have the name of a class
    class_folder = next((i for i, part in enumerate(parts[:-1]) if part == file.label and i >= first), None)
    below = file.path if class_folder is None else "/".join(parts[class_folder + 1 :])
    if rule == "folder":
        return None if class_folder is None else below.rpartition("/")[0] or None
    match = re.search(rule.removeprefix(REGEX_PREFIX), below)
    return None if match is None else next(iter(match.groups()), match.group())


def merge_groups(count: int, *pairs: np.ndarray) -> np.ndarray:
    """Group number of each of `count` images, if the two images of each pair belong together; int (count,)."""
    first, second = np.concatenate([np.zeros((0, 2), int), *pairs]).T
    graph = coo_array((np.ones(len(first), bool), (first, second)), (count, count))
    return connected_components(graph, directed=False)[1]


def group_members(numbers: np.ndarray) -> list[np.ndarray]:
    """Positions of each group of two or more; negative numbers are not a group."""
    order = np.argsort(numbers, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1)
    return [group for group in groups if len(group) > 1 and numbers[group[0]] >= 0]
