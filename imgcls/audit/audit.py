"""Inspects every image of a task once: which can be decoded, which are duplicates, which belong together."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image
from tqdm import tqdm

from imgcls.audit import grouping
from imgcls.audit.image_stats import RECORD, THUMB_PX, VERSION, inspect_images
from imgcls.audit.near_duplicates import SETTINGS, find_exact_duplicates, find_near_duplicates
from imgcls.data.listing import ImageFile
from imgcls.storage import array_cache, inspection_cache
from imgcls.system import cpu

CHUNK = 32  # images that a thread inspects at a time
OS_REASONS = frozenset(map(os.strerror, errno.errorcode))  # the operating system's: they may pass, so are not stored
STORED_CHUNKS = 64  # chunks that are inspected before they are stored
SPLIT_ORDER = ("train", "validation", "test")  # of duplicates in several splits, those in the last one stay
PROGRESS_IMAGES = 100  # with fewer there is no progress bar


@dataclass
class Audit:
    """What is known of a task's images; `files`, `records` (RECORD) and `reasons` have the same order.

    reasons: why an image cannot be decoded, None if it can. dropped: positions that the user excluded; they are never
    duplicates of others.
    """

    files: Sequence[ImageFile]
    records: np.ndarray
    reasons: list[str | None]
    dropped: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self.files)

    @cached_property
    def sound(self) -> np.ndarray:
        """Whether each image can be decoded, bool (N,)."""
        return np.array([reason is None for reason in self.reasons], bool)

    @property
    def elongated_fraction(self) -> float:
        """Fraction of the sound images of which a center crop shows less than two thirds."""
        sides = np.stack([self.records[side][self.sound].astype(float) for side in ("width", "height")])
        return float((sides.min(0) < sides.max(0) * 2 / 3).mean()) if sides.size else 0.0

    @cached_property
    def exact_duplicates(self) -> list[np.ndarray]:
        """Positions of each group of files with the same bytes."""
        numbers = find_exact_duplicates(self.records["digest"])
        numbers[list(self.dropped)] = -1
        return grouping.group_members(numbers)

    @cached_property
    def near_duplicates(self) -> np.ndarray:
        """Pairs of positions of images that are near-duplicates, but not the same file; int (P, 2), i < j.

        Images smaller than the thumbnail contain too little to tell a copy from a look-alike: of 1,797 digits of 10 px,
        218 were taken for copies.
        """
        is_compared = np.minimum(self.records["width"], self.records["height"]) >= THUMB_PX
        is_compared &= self.sound
        for group in self.exact_duplicates:  # the first stands for all
            is_compared[group[1:]] = False
        is_compared[list(self.dropped)] = False
        indices = np.flatnonzero(is_compared)
        key = hashlib.blake2b(self.records["digest"][indices].tobytes()).hexdigest()

        def find_pairs() -> np.ndarray:
            pairs = find_near_duplicates(self.records["thumb"], self.records["colour"], indices)
            return np.searchsorted(indices, pairs)

        return indices[array_cache.cached_array("copies", [VERSION, SETTINGS, key], find_pairs)].reshape(-1, 2)

    @cached_property
    def duplicates(self) -> list[np.ndarray]:
        """Positions of each group of images that show the same picture."""
        return grouping.group_members(
            grouping.merge_groups(len(self), self._exact_duplicate_pairs(), self.near_duplicates)
        )

    def groups(self, rule: str = "none") -> np.ndarray:
        """Group number of each image: duplicates, and images that a rule of --group_by keeps together."""
        by_rule = grouping.group_by_rule(rule, self.files, self.records["taken"])
        return grouping.merge_groups(len(self), self._exact_duplicate_pairs(), self.near_duplicates, by_rule)

    def _exact_duplicate_pairs(self) -> np.ndarray:
        pairs = [np.stack([group[:-1], group[1:]], 1) for group in self.exact_duplicates]
        return np.concatenate(pairs) if pairs else np.zeros((0, 2), int)

    @cached_property
    def excluded(self) -> dict[int, str]:
        """Position -> reason of each image that training is better without, in order.

        Broken files; the same file under two classes, since either may be right; training images that are copies of
        evaluation images; all but the first of other exact duplicates.
        """
        excluded = {i: reason for i, reason in enumerate(self.reasons) if reason is not None}
        for group in self.exact_duplicates:
            classes = sorted({self.files[i].label for i in group})
            if len(classes) > 1:
                excluded |= {int(i): f"the same file under several classes: {', '.join(classes)}" for i in group}
        for i, j in self.leaks():
            excluded.setdefault(i, f"a copy of {self.files[j].path}, by which it would be judged")
        for group in self.exact_duplicates:
            remaining = [int(i) for i in group if int(i) not in excluded]
            for i in remaining[1:]:
                excluded[i] = f"the same file as {self.files[remaining[0]].path}"
        return dict(sorted(excluded.items()))

    def leaks(self) -> Iterator[tuple[int, int]]:
        """(i, j): image i is a duplicate of image j, on which it would be evaluated; one j for each i."""
        if len({file.split for file in self.files}) < 2:
            return
        for group in self.duplicates:
            rank = {int(i): SPLIT_ORDER.index(self.files[i].split or "train") for i in group}
            last = max(rank, key=lambda i: (rank[i], -i))
            yield from ((i, last) for i in rank if rank[i] < rank[last])


def run_audit(
    files: Sequence[ImageFile],
    keys: Sequence[str],
    source: Callable[[int], str | bytes],
    show_progress: bool,
    dropped: Iterable[int] = (),
    on_decoded: Callable[[int, Image.Image, tuple[int, int]], None] | None = None,
) -> Audit:
    """Inspect the images that are new or have changed since the last time, with one thread per core.

    keys: cache key of each image. source: position -> path or encoded bytes. dropped: see `Audit`. on_decoded: see
    `inspect_images`, with the image's position; not called for images whose record is cached. What the operating system
    refused (too many open files, no permission) is not cached, because it may pass.
    """
    cache = inspection_cache.InspectionCache(f"{VERSION} {hashlib.sha256(repr(RECORD).encode()).hexdigest()[:8]}")
    records = np.zeros(len(keys), RECORD)
    reasons: list[str | None] = [None] * len(keys)
    is_known = np.zeros(len(keys), bool)
    for i, reason, record in cache.lookup(keys):
        is_known[i], reasons[i] = True, reason
        if reason is None:
            records[i] = np.frombuffer(record, RECORD)[0]
    todo = np.flatnonzero(~is_known)
    for indices, chunk_records, chunk_reasons in _inspected_chunks(todo, source, show_progress, on_decoded):
        records[indices] = chunk_records
        inspections = []
        for i, reason in zip(indices.tolist(), chunk_reasons, strict=True):
            reasons[i] = reason
            if reason not in OS_REASONS:
                inspections.append((keys[i], reason, b"" if reason else records[i].tobytes()))
        cache.add(inspections)
    return Audit(files, records, reasons, frozenset(dropped))


def _inspected_chunks(
    todo: np.ndarray,
    source: Callable[[int], str | bytes],
    show_progress: bool,
    on_decoded: Callable[[int, Image.Image, tuple[int, int]], None] | None,
) -> Iterator[tuple[np.ndarray, np.ndarray, list[str | None]]]:
    """Positions, records and reasons of STORED_CHUNKS chunks at a time: memory holds, and a kill loses, no more."""

    def inspect(indices: np.ndarray) -> tuple[np.ndarray, list[str | None]]:
        def notify(place: int, image: Image.Image, size: tuple[int, int]) -> None:
            if on_decoded is not None:
                on_decoded(int(indices[place]), image, size)

        return inspect_images([source(int(i)) for i in indices], notify)

    has_bar = show_progress and len(todo) >= PROGRESS_IMAGES
    bar = tqdm(total=len(todo), desc="checking images", unit="img", leave=False, disable=None if has_bar else True)
    with ThreadPoolExecutor(cpu.available_cores()) as pool, bar:
        for start in range(0, len(todo), CHUNK * STORED_CHUNKS):
            indices = todo[start : start + CHUNK * STORED_CHUNKS]
            chunks = [indices[i : i + CHUNK] for i in range(0, len(indices), CHUNK)]
            records, reasons = [], []
            for chunk_records, chunk_reasons in pool.map(inspect, chunks):
                records.append(chunk_records)
                reasons += chunk_reasons
                bar.update(len(chunk_records))
            yield indices, np.concatenate(records), reasons
