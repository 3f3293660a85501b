"""Labels, and groups that belong together -> train, validation and test; pure and seeded."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from imgcls.errors import OptionError


def stratified_group_split(
    labels: Sequence[str], fractions: dict[str, float], seed: int, groups: Sequence[int] | None = None
) -> list[str]:
    """The split of each item: each class gives its share to each split of `fractions`, the rest is "train".

    groups: number of the group of each item; a group, whose class is its commonest, lands in one split (None: each item
    is one of its own). A class with two groups or more has at least one in train and one in the first split, with
    three one in the second too, and so on; beyond that its share of items that stand alone is less than one item from
    the exact figure. A class's groups are shuffled, and its shares rounded, by (seed, class), so adding a class moves
    none of the others'. Raises OptionError unless the fractions are above 0 and leave something for train.
    """
    if any(not 0 < f < 1 for f in fractions.values()) or sum(fractions.values()) >= 1:
        raise OptionError(f"Expected fractions between 0 and 1 that sum to less than 1, got {fractions}.")
    found = ["train"] * len(labels)
    for name, members in _by_class(labels, seed, groups).items():
        size, room = sum(map(len, members)), len(members) - 1  # one stays in train
        for later, (split, fraction) in zip(reversed(range(len(fractions))), fractions.items(), strict=True):
            most = min(room, max(1, room - later))  # leaves one for each later split as far as they go
            # 1.5 images are 1 or 2 by chance: to the nearest, a hundred classes of ten would give 0.20 for 0.15
            share = int(fraction * size + random.Random(f"{seed}:{name}:{split}").random())
            chosen = _fill(members, max(1, share), most)
            for i in (i for group in chosen for i in members[group]):
                found[i] = split
            members = [group for at, group in enumerate(members) if at not in chosen]
            room -= len(chosen)
    return found


def _fill(members: Sequence[Sequence[int]], share: int, most: int) -> set[int]:
    """Positions of at most `most` groups with about `share` items together, at least one group where `most` allows.

    In order, leaving out a group that would overshoot by more than it leaves short; only the smallest if all would.
    """
    chosen: set[int] = set()
    count = 0
    for at, group in enumerate(members):
        if len(chosen) < most and count < share and count + len(group) - share <= share - count:
            chosen.add(at)
            count += len(group)
    if not chosen and most > 0:
        chosen = {min(range(len(members)), key=lambda at: len(members[at]))}
    return chosen


def stratified_sample(labels: Sequence[str], most: int, seed: int) -> list[int]:
    """Positions of about `most` items at most, in order: each class's share, at least one where it has two."""
    if len(labels) <= most:
        return list(range(len(labels)))
    chosen = stratified_group_split(labels, {"sample": most / len(labels)}, seed)
    return [i for i, split in enumerate(chosen) if split == "sample"]


def stratified_group_folds(
    labels: Sequence[str], count: int, seed: int, groups: Sequence[int] | None = None
) -> list[int]:
    """The fold of each item, 0 <= fold < count, each class spread evenly.

    groups: number of the group of each item; a group lands in one fold. Items that stand alone are dealt so that fold
    sizes differ by one at most, in all and within each class. Raises OptionError unless 2 <= count <= number of groups.
    """
    units = len(labels) if groups is None else len(set(groups))
    if not 2 <= count <= units:
        what = "images" if groups is None else "groups of images that belong together"
        raise OptionError(f"Expected from 2 to {units} folds for {units} {what}, got {count}.")
    found = [0] * len(labels)
    total = [0] * count
    for members in _by_class(labels, seed, groups).values():
        of_class = [0] * count
        for group in sorted(members, key=len, reverse=True):  # the large ones first: small ones even out
            fold = min(range(count), key=lambda k: (of_class[k], total[k], k))
            of_class[fold] += len(group)
            total[fold] += len(group)
            for i in group:
                found[i] = fold
    return found


def _by_class(labels: Sequence[str], seed: int, groups: Sequence[int] | None) -> dict[str, list[list[int]]]:
    """class -> the positions of each of its groups, shuffled; a group's class is its commonest, then its first."""
    if groups is None:
        members = {i: [i] for i in range(len(labels))}
    else:
        members = {}
        for i, group in enumerate(groups):
            members.setdefault(group, []).append(i)
    classes: dict[str, list[list[int]]] = {}
    for group in members.values():
        name = labels[group[0]] if len(group) == 1 else Counter(labels[i] for i in group).most_common(1)[0][0]
        classes.setdefault(name, []).append(group)
    for name, of_class in classes.items():
        random.Random(f"{seed}:{name}").shuffle(of_class)
    return classes
