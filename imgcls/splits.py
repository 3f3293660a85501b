"""Labels -> train, validation and test; pure and seeded."""

from __future__ import annotations

import random
from collections.abc import Sequence

from imgcls.errors import OptionError


def stratified(labels: Sequence[str], fractions: dict[str, float], seed: int) -> list[str]:
    """The split of each item: each class gives its share to each split of `fractions`, the rest is "train".

    A class with two images or more has at least one in train and one in the first split, with three one in the
    second too, and so on; beyond that it gives its exact share rounded down or up, up where most was cut off
    (largest remainder), until the split has its fraction of all images. Rounding each class by itself would
    turn 0.15 into 0.20 when all have ten images. A class's images are shuffled by (seed, class): another class
    does not reshuffle them, though a class's share may then be rounded the other way. Raises OptionError unless
    the fractions are above 0 and leave something for train.
    """
    if any(not 0 < f < 1 for f in fractions.values()) or sum(fractions.values()) >= 1:
        raise OptionError(f"Expected fractions between 0 and 1 that sum to less than 1, got {fractions}.")
    found = ["train"] * len(labels)
    left = _by_class(labels, seed)
    sizes = {name: len(members) for name, members in left.items()}
    for later, (split, fraction) in zip(reversed(range(len(fractions))), fractions.items(), strict=True):
        exact = {name: fraction * size for name, size in sizes.items()}
        # one stays in train, and one for each later split as far as they go
        most = {name: min(len(of) - 1, max(1, len(of) - 1 - later)) for name, of in left.items()}
        for name, count in _rounded(exact, most, round(fraction * len(labels))).items():
            for i in left[name][:count]:
                found[i] = split
            left[name] = left[name][count:]
    return found


def folds(labels: Sequence[str], count: int, seed: int) -> list[int]:
    """The fold of each item, 0 <= fold < count, each class spread evenly.

    Classes are dealt round one after the other, each going on where the last one stopped, so fold sizes differ
    by one at most, in all and within each class. Raises OptionError unless 2 <= count <= number of items.
    """
    if not 2 <= count <= len(labels):
        raise OptionError(f"Expected from 2 to {len(labels)} folds for {len(labels)} images, got {count}.")
    found = [0] * len(labels)
    for turn, i in enumerate(i for members in _by_class(labels, seed).values() for i in members):
        found[i] = turn % count
    return found


def _rounded(exact: dict[str, float], most: dict[str, int], total: int) -> dict[str, int]:
    """Exact shares as whole numbers from 1 to `most`, each less than one away, that sum to `total` if they can."""
    counts = {name: min(most[name], max(1, int(share))) for name, share in exact.items()}
    cut = {name: exact[name] - n for name, n in counts.items() if exact[name] > n and n < most[name]}
    missing = max(0, total - sum(counts.values()))
    for name in sorted(cut, key=cut.__getitem__, reverse=True)[:missing]:
        counts[name] += 1
    return counts


def _by_class(labels: Sequence[str], seed: int) -> dict[str, list[int]]:
    """class -> its positions, shuffled."""
    classes: dict[str, list[int]] = {}
    for i, label in enumerate(labels):
        classes.setdefault(label, []).append(i)
    for name, members in classes.items():
        random.Random(f"{seed}:{name}").shuffle(members)
    return classes
