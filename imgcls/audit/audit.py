"""Every image of a task inspected once: which are sound, which are copies of each other, which belong together."""

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

from imgcls.audit import grouping, near_duplicates
from imgcls.audit.image_stats import RECORD, THUMB_PX, VERSION, inspect_images
from imgcls.data.listing import ImageFile
from imgcls.storage import array_cache, inspection_cache
from imgcls.system import cpu

CHUNK = 32  # images that a thread inspects at a time
REFUSALS = frozenset(map(os.strerror, errno.errorcode))  # reasons that say nothing of the file
KEPT_CHUNKS = 64  # chunks that are inspected before what was found is kept
JUDGES = ("train", "validation", "test")  # a copy in a later one of these judges the earlier ones: it stays there


@dataclass
class Audit:
    """What is known of a task's images. files, records (RECORD) and reasons have the same order.

    reasons: why an image cannot be decoded, None for sound ones. dropped: positions that a person left out already;
    they are no one's copies.
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
    def cut_share(self) -> float:
        """Share of the sound images of which the middle square shows less than two thirds."""
        sides = np.stack([self.records[side][self.sound].astype(float) for side in ("width", "height")])
        return float((sides.min(0) < sides.max(0) * 2 / 3).mean()) if sides.size else 0.0

    @cached_property
    def exact(self) -> list[np.ndarray]:
        """Positions of each group of files that are the same byte for byte."""
        found = near_duplicates.find_exact_duplicates(self.records["digest"])
        found[list(self.dropped)] = -1
        return grouping.group_members(found)

    @cached_property
    def near(self) -> np.ndarray:
        """Pairs of positions of images that are copies of each other, but not the same file; int (P, 2), i < j.

        Smaller pictures than the thumbnail hold too little to tell a copy from a look-alike: of 1,797 digits of 10 px,
        218 were taken for copies.
        """
        first = np.ones(len(self), bool)  # of files that are the same, only the first is compared
        for same in self.exact:
            first[same[1:]] = False
        first[list(self.dropped)] = False
        large = np.minimum(self.records["width"], self.records["height"]) >= THUMB_PX
        at = np.flatnonzero(large & self.sound & first)
        key = hashlib.blake2b(self.records["digest"][at].tobytes()).hexdigest()
        views = (self.records[name] for name in ("thumb", "colour"))
        found = array_cache.cached_array(
            "copies",
            [VERSION, near_duplicates.SETTINGS, key],
            lambda: np.searchsorted(at, near_duplicates.find_near_duplicates(*views, at)),
        )
        return at[found].reshape(-1, 2)

    @cached_property
    def copies(self) -> list[np.ndarray]:
        """Positions of each group of images that show the same picture."""
        return grouping.group_members(grouping.merge_groups(len(self), self._same_file(), self.near))

    def together(self, rule: str = "none") -> np.ndarray:
        """Number of the group of each image: copies, and what a rule of --group_by ties together."""
        tied = grouping.group_by_rule(rule, self.files, self.records["taken"])
        return grouping.merge_groups(len(self), self._same_file(), self.near, tied)

    def _same_file(self) -> np.ndarray:
        pairs = [np.stack([same[:-1], same[1:]], 1) for same in self.exact]
        return np.concatenate(pairs) if pairs else np.zeros((0, 2), int)

    @cached_property
    def excluded(self) -> dict[int, str]:
        """Position -> reason of each image that training is better without.

        Broken files; files that are the same under two classes, since no one knows which is right; training images
        that are copies of those they are judged by; of other files that are the same all but the first.
        """
        found = {i: reason for i, reason in enumerate(self.reasons) if reason is not None}
        for same in self.exact:
            classes = sorted({self.files[i].label for i in same})
            if len(classes) > 1:
                found |= {int(i): f"the same file under several classes: {', '.join(classes)}" for i in same}
        for i, j in self.leaks():
            found.setdefault(i, f"a copy of {self.files[j].path}, by which it would be judged")
        for same in self.exact:
            left = [int(i) for i in same if int(i) not in found]
            if left:
                found |= dict.fromkeys(left[1:], f"the same file as {self.files[left[0]].path}")
        return dict(sorted(found.items()))

    def leaks(self) -> Iterator[tuple[int, int]]:
        """(i, j): image i is a copy of image j in a split by which it would be judged; one j for each i."""
        if len({file.split for file in self.files}) < 2:
            return
        for group in self.copies:
            rank = {int(i): JUDGES.index(self.files[i].split or "train") for i in group}
            judge = max(rank, key=lambda i: (rank[i], -i))
            yield from ((i, judge) for i in rank if rank[i] < rank[judge])


def run_audit(
    files: Sequence[ImageFile],
    keys: Sequence[str],
    source: Callable[[int], str | bytes],
    show_progress: bool,
    dropped: Iterable[int] = (),
    seen: Callable[[int, Image.Image, tuple[int, int]], None] | None = None,
) -> Audit:
    """Inspect the images that were not inspected before or have changed since, with a thread a core.

    keys: what each inspection is kept under; a file's absolute path. source: position -> path or encoded bytes.
    dropped: see `Audit`. seen: see `inspect`, with the image's position. What the operating system refused (too
    many open files, no permission) is not kept: it may be over.
    """
    kept = inspection_cache.InspectionCache(f"{VERSION} {hashlib.sha256(repr(RECORD).encode()).hexdigest()[:8]}")
    records = np.zeros(len(keys), RECORD)
    reasons: list[str | None] = [None] * len(keys)
    known = np.zeros(len(keys), bool)
    for i, reason, record in kept.lookup(keys):
        known[i], reasons[i] = True, reason
        if reason is None:
            records[i] = np.frombuffer(record, RECORD)[0]
    todo = np.flatnonzero(~known)
    chunks = [todo[start : start + CHUNK] for start in range(0, len(todo), CHUNK)]

    def look(at: np.ndarray) -> tuple[np.ndarray, list[str | None]]:
        told = None if seen is None else lambda place, *of_it: seen(int(at[place]), *of_it)
        return inspect_images([source(int(i)) for i in at], told)

    bar = tqdm(total=len(todo), desc="checking images", unit="img", leave=False, disable=_silent(show_progress, todo))
    with ThreadPoolExecutor(cpu.available_cores()) as pool, bar:
        for start in range(0, len(chunks), KEPT_CHUNKS):  # so that a kill loses, and memory holds, no more than these
            window = chunks[start : start + KEPT_CHUNKS]
            inspected = pool.map(look, window)
            for chunk, (found, why) in zip(window, inspected, strict=True):
                records[chunk] = found
                for i, reason in zip(chunk, why, strict=True):
                    reasons[i] = reason
                bar.update(len(chunk))
            kept.add(
                (keys[i], reasons[i], b"" if reasons[i] else records[i].tobytes())
                for chunk in window
                for i in chunk
                if reasons[i] not in REFUSALS
            )
    return Audit(files, records, reasons, frozenset(dropped))


def _silent(show_progress: bool, todo: Sequence) -> bool | None:
    """tqdm's `disable`: no bar for few images; else one on a terminal only."""
    return None if show_progress and len(todo) >= 100 else True
