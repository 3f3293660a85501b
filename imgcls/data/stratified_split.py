"""Stratified group splits: labels and groups -> train, validation and test, or folds; pure functions of the seed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from imgcls.errors import OptionError


def stratified_group_split(
    labels: Sequence[str], fractions: dict[str, float], seed: int, groups: Sequence[int] | None = None
) -> list[str]:
    """The split of each item: each class gives its fraction to each split of `fractions`, the rest is "train".

    groups: group number of each item; a group, whose class is its most frequent one, lands in one split (None: each
    item is its own group). A class with two groups or more has at least one in train and one in the first split, with
    three one in the second too, and so on; apart from that its number of items is less than one from the exact
    fraction, if no item has a group. The groups of a class are shuffled, and its numbers rounded, by (seed, class), so
    adding a class does not move items of others. Raises OptionError unless the fractions are above 0 and sum to less
    than 1.
    """
    if any(not 0 < f < 1 for f in fractions.values()) or sum(fractions.values()) >= 1:
        raise OptionError(f"Expected fractions between 0 and 1 that sum to less than 1, got {fractions}.")
    splits = ["train"] * len(labels)
    for name, class_groups in _groups_by_class(labels, seed, groups).items():
        size, available = sum(map(len, class_groups)), len(class_groups) - 1  # one stays in train
        for later, (split, fraction) in zip(reversed(range(len(fractions))), fractions.items(), strict=True):
            most = min(available, max(1, available - later))  # leaves one for each later split, if there are enough
            # 1.5 images become 1 or 2 at random: rounded to the nearest, 100 classes of 10 would give 0.20 for 0.15
            count = int(fraction * size + random.Random(f"{seed}:{name}:{split}").random())
            chosen = _choose_groups(class_groups, max(1, count), most)
            for i in (i for index in chosen for i in class_groups[index]):
                splits[i] = split
            class_groups = [group for index, group in enumerate(class_groups) if index not in chosen]
            available -= len(chosen)
    return splits


def _choose_groups(groups: Sequence[Sequence[int]], size: int, most: int) -> set[int]:
    """Indices of at most `most` groups with about `size` items in total; at least one group if `most` allows.

    In order, without groups that exceed the size by more than they would leave missing; the smallest one if all do.
    """
    chosen: set[int] = set()
    count = 0
    for index, group in enumerate(groups):
        if len(chosen) < most and count < size and count + len(group) - size <= size - count:
            chosen.add(index)
            count += len(group)
    if not chosen and most > 0:
        chosen = {min(range(len(groups)), key=lambda index: len(groups[index]))}
    return chosen


def stratified_sample(labels: Sequence[str], most: int, seed: int) -> list[int]:
    """Indices, in order, of about `most` items: the same fraction of each class, at least one of each with two."""
    if len(labels) <= most:
        return list(range(len(labels)))
    chosen = stratified_group_split(labels, {"sample": most / len(labels)}, seed)
    return [i for i, split in enumerate(chosen) if split == "sample"]


def stratified_group_folds(
    labels: Sequence[str], count: int, seed: int, groups: Sequence[int] | None = None
) -> list[int]:
    """The fold of each item, 0 <= fold < count, each class spread evenly.

    groups: group number of each item; a group lands in one fold. Without groups, fold sizes differ by at most one, in
    total and within each class. Raises OptionError unless 2 <= count <= number of groups.
    """
    units = len(labels) if groups is None else len(set(groups))
    if not 2 <= count <= units:
        what = "images" if groups is None else "groups of images that belong together"
        raise OptionError(f"Expected from 2 to {units} folds for {units} {what}, got {count}.")
    folds = [0] * len(labels)
    fold_sizes = [0] * count
    for class_groups in _groups_by_class(labels, seed, groups).values():
        class_sizes = [0] * count
        for group in sorted(class_groups, key=len, reverse=True):  # large groups first; small ones even out the sizes
            fold = min(range(count), key=lambda k: (class_sizes[k], fold_sizes[k], k))
            class_sizes[fold] += len(group)
            fold_sizes[fold] += len(group)
            for i in group:
                folds[i] = fold
    return folds


def _groups_by_class(labels: Sequence[str], seed: int, groups: Sequence[int] | None) -> dict[str, list[list[int]]]:
    """Class -> the indices of each of its groups, shuffled; a group's class is its most frequent, then its first."""
    members: dict[int, list[int]] = {}
    for i, group in enumerate(range(len(labels)) if groups is None else groups):
        members.setdefault(group, []).append(i)
    classes: dict[str, list[list[int]]] = {}
    for group in members.values():
        name = labels[group[0]] if len(group) == 1 else Counter(labels[i] for i in group).most_common(1)[0][0]
        classes.setdefault(name, []).append(group)
    for name, class_groups in classes.items():
        random.Random(f"{seed}:{name}").shuffle(class_groups)
    return classes
