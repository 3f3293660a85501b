"""Labels -> train, validation and test; pure and seeded."""

from __future__ import annotations

import random
from collections.abc import Sequence

from imgcls.errors import OptionError


def stratified(labels: Sequence[str], fractions: dict[str, float], seed: int) -> list[str]:
    """The split of each item: each class gives its share to each split of `fractions`, the rest is "train".

    A class with two images or more has at least one in train and one in the first split, with three one in the
    second too, and so on; beyond that its share is less than one image from the exact figure. A class's images
    are shuffled, and its shares rounded, by (seed, class), so adding a class moves none of the others'. Raises
    OptionError unless the fractions are above 0 and leave something for train.
    """
    if any(not 0 < f < 1 for f in fractions.values()) or sum(fractions.values()) >= 1:
        raise OptionError(f"Expected fractions between 0 and 1 that sum to less than 1, got {fractions}.")
    found = ["train"] * len(labels)
    for name, members in _by_class(labels, seed).items():
        size, room = len(members), len(members) - 1  # one stays in train
        for later, (split, fraction) in zip(reversed(range(len(fractions))), fractions.items(), strict=True):
            most = min(room, max(1, room - later))  # leaves one for each later split as far as they go
            # 1.5 images are 1 or 2 by chance: to the nearest, a hundred classes of ten would give 0.20 for 0.15
            share = int(fraction * size + random.Random(f"{seed}:{name}:{split}").random())
            count = min(most, max(1, share))
            for i in members[:count]:
                found[i] = split
            members, room = members[count:], room - count
    return found


def sample(labels: Sequence[str], most: int, seed: int) -> list[int]:
    """Positions of about `most` items at most, in order: each class's share, at least one where it has two."""
    if len(labels) <= most:
        return list(range(len(labels)))
    chosen = stratified(labels, {"sample": most / len(labels)}, seed)
    return [i for i, split in enumerate(chosen) if split == "sample"]


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


def _by_class(labels: Sequence[str], seed: int) -> dict[str, list[int]]:
    """class -> its positions, shuffled."""
    classes: dict[str, list[int]] = {}
    for i, label in enumerate(labels):
        classes.setdefault(label, []).append(i)
    for name, members in classes.items():
        random.Random(f"{seed}:{name}").shuffle(members)
    return classes
