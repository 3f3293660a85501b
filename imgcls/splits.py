"""Labels -> train, validation and test; pure and seeded."""

from __future__ import annotations

import random
from collections.abc import Sequence

from imgcls.errors import OptionError


def stratified(labels: Sequence[str], fractions: dict[str, float], seed: int) -> list[str]:
    """The split of each item: each class gives its share to each split of `fractions`, the rest is "train".

    A class with two images or more has at least one in train and one in the first split, with three one in the
    second too, and so on. A class's images are shuffled by (seed, class), so adding a class moves none of the
    others'. Raises OptionError unless the fractions are above 0 and leave something for train.
    """
    if any(not 0 < f < 1 for f in fractions.values()) or sum(fractions.values()) >= 1:
        raise OptionError(f"Expected fractions between 0 and 1 that sum to less than 1, got {fractions}.")
    found = ["train"] * len(labels)
    for members in _by_class(labels, seed).values():
        size, room = len(members), len(members) - 1  # one stays in train
        for later, (split, fraction) in zip(reversed(range(len(fractions))), fractions.items(), strict=True):
            most = min(room, max(1, room - later))  # leaves one for each later split as far as they go
            count = min(most, max(1, round(fraction * size)))
            for i in members[:count]:
                found[i] = split
            members, room = members[count:], room - count
    return found


def _by_class(labels: Sequence[str], seed: int) -> dict[str, list[int]]:
    """class -> its positions, shuffled."""
    classes: dict[str, list[int]] = {}
    for i, label in enumerate(labels):
        classes.setdefault(label, []).append(i)
    for name, members in classes.items():
        random.Random(f"{seed}:{name}").shuffle(members)
    return classes
