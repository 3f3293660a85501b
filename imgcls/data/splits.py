"""Which split each image is in: training, validation, test, and cross-validation folds."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import datasets
import numpy as np

from imgcls.config.data_options import DataOptions
from imgcls.data import stratified_split
from imgcls.data.dataset import ImageCollection
from imgcls.data.listing import ImageFile
from imgcls.errors import FolderError, shorten

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """The images of one split; the position of an image is the same in all four fields.

    rows: columns "image" and "label" (int). paths: relative to the data folder. keys: see `ImageCollection`. groups:
    group number of each image, see `stratified_split`.
    """

    rows: datasets.Dataset
    paths: list[str]
    keys: list[str]
    groups: list[int]

    def __len__(self) -> int:
        return len(self.paths)

    @cached_property
    def labels(self) -> list[int]:
        """Class index of each image; read as one column, which takes a tenth of the time of reading row by row."""
        return self.rows["label"][:]

    def imbalance(self) -> float:
        """Number of images of the largest class divided by that of the smallest class present."""
        counts = Counter(self.labels).values()
        return max(counts) / min(counts)

    def select(self, indices: Sequence[int]) -> Split:
        """The images at these positions, in this order."""
        return Split(
            self.rows.select(np.array(indices, dtype=int)),
            [self.paths[i] for i in indices],
            [self.keys[i] for i in indices],
            [self.groups[i] for i in indices],
        )


@dataclass(frozen=True)
class DatasetSplits:
    """The images that are used, each in one split."""

    classes: list[str]
    train: Split
    validation: Split
    test: Split | None = None

    def items(self) -> Iterator[tuple[str, Split]]:
        """Name and images of each split present, in the order train, validation, test."""
        yield "train", self.train
        yield "validation", self.validation
        if self.test is not None:
            yield "test", self.test

    def __getitem__(self, name: str) -> Split:
        """The split of this name. Raises KeyError if there is none."""
        return dict(self.items())[name]

    @property
    def num_images(self) -> int:
        """Number of images in all splits."""
        return sum(len(split) for _, split in self.items())

    def merged(self) -> Split:
        """All images, in the order of `items`."""
        return _concatenate([split for _, split in self.items()])

    def table(self) -> list[tuple[str, str, str, str]]:
        """Rows of split.csv: path, class, split, group (the first path of the group, "" for a single image)."""
        everything = self.merged()
        sizes = Counter(everything.groups)
        first: dict[int, str] = {}
        for group, path in zip(everything.groups, everything.paths, strict=True):
            if sizes[group] > 1:
                first[group] = min(path, first.get(group, path))
        return [
            (path, self.classes[label], name, first.get(group, ""))
            for name, split in self.items()
            for path, label, group in zip(split.paths, split.labels, split.groups, strict=True)
        ]

    def folds(self, count: int, val_fraction: float, seed: int) -> Iterator[DatasetSplits]:
        """`count` splits of the training and validation images; each image is in the test split of exactly one.

        In each fold, `val_fraction` of the remaining images of each class becomes validation; groups stay whole. Raises
        FolderError for a class with a single image or too few images in total, OptionError for more folds than images.
        """
        pool = _concatenate([self.train, self.validation])
        labels = [self.classes[label] for label in pool.labels]
        _check_enough_for_folds(labels, pool.groups)
        fold_of = stratified_split.stratified_group_folds(labels, count, seed, pool.groups)
        for fold in range(count):
            rest = [i for i, number in enumerate(fold_of) if number != fold]
            chosen = stratified_split.stratified_group_split(
                [labels[i] for i in rest], {"validation": val_fraction}, seed, [pool.groups[i] for i in rest]
            )
            train, validation = (
                [i for i, split in zip(rest, chosen, strict=True) if split == name] for name in ("train", "validation")
            )
            test = [i for i, number in enumerate(fold_of) if number == fold]
            if not validation or not test:
                raise FolderError(
                    f"Expected enough images to train, validate and test in each of {count} folds, got {len(labels)} "
                    f"in {len(self.classes)} classes. Add images, or leave --folds out."
                )
            yield DatasetSplits(self.classes, pool.select(train), pool.select(validation), pool.select(test))


def _concatenate(splits: Sequence[Split]) -> Split:
    return Split(
        datasets.concatenate_datasets([split.rows for split in splits]),
        [path for split in splits for path in split.paths],
        [key for split in splits for key in split.keys],
        [group for split in splits for group in split.groups],
    )


def _check_enough_for_folds(labels: Sequence[str], groups: Sequence[int]) -> None:
    groups_per_class = Counter(label for label, _ in set(zip(labels, groups, strict=True)))
    single = [label for label, count in groups_per_class.items() if count < 2]
    if single:
        raise FolderError(
            f"Expected at least 2 images in each class for --folds, got 1 in {shorten(single)} (images that belong "
            "together count as one). Add images, or leave --folds out."
        )


def make_splits(
    images: ImageCollection,
    excluded: Mapping[int, str],
    options: DataOptions,
    seed: int,
    groups: Sequence[int] | np.ndarray | None = None,
) -> DatasetSplits:
    """Split the images except the excluded ones (position -> reason).

    Splits that the data came with are kept; without a validation split, `val_fraction` of each class is used, seeded.
    groups: group number of each image; a group lands in one split (None: each image is its own group). Raises
    FolderError if the remaining images cannot be trained on.
    """
    files = images.listing.files
    used = [i for i in range(len(files)) if i not in excluded]
    _check_enough(files, used)
    if excluded:
        names = shorten(f"{files[i].path} ({reason})" for i, reason in excluded.items())
        log.info("data: %d image%s excluded: %s", len(excluded), "" if len(excluded) == 1 else "s", names)
    group_numbers = [int(group) for group in (range(len(files)) if groups is None else groups)]
    split_names = _choose_splits([files[i] for i in used], [group_numbers[i] for i in used], options, seed)
    if options.group_by != "none":
        _warn_of_divided_groups([group_numbers[i] for i in used], split_names)
    labels = [files[i].label for i in used]
    _check_splits(labels, split_names)
    classes = sorted(set(labels))
    everything = Split(
        _add_labels(images.rows, files, classes), [file.path for file in files], images.keys, group_numbers
    )
    train, validation, test = (
        [i for i, split in zip(used, split_names, strict=True) if split == name]
        for name in ("train", "validation", "test")
    )
    return DatasetSplits(
        classes, everything.select(train), everything.select(validation), everything.select(test) if test else None
    )


def _choose_splits(files: Sequence[ImageFile], groups: Sequence[int], options: DataOptions, seed: int) -> list[str]:
    """The split of each file: its own, or one of those for which the options reserve a fraction."""
    chosen = [file.split or "train" for file in files]
    fractions = {"validation": options.val_fraction, "test": options.test_fraction}
    missing = {name: fraction for name, fraction in fractions.items() if fraction > 0 and name not in chosen}
    if missing:
        free = [i for i, split in enumerate(chosen) if split == "train"]
        splits = stratified_split.stratified_group_split(
            [files[i].label for i in free], missing, seed, [groups[i] for i in free]
        )
        for i, split in zip(free, splits, strict=True):
            chosen[i] = split
    return chosen


def _add_labels(rows: datasets.Dataset, files: Sequence[ImageFile], classes: list[str]) -> datasets.Dataset:
    """The rows with a column "label"; -1 for a class of which all images are excluded.

    Called before rows are selected: adding a column to a selection takes 25 us a row.
    """
    index = {name: i for i, name in enumerate(classes)}
    labels = np.array([index.get(file.label, -1) for file in files])
    return rows.add_column("label", labels, feature=datasets.ClassLabel(names=classes))


def _check_enough(files: Sequence[ImageFile], used: Sequence[int]) -> None:
    counts = Counter(files[i].label for i in used if files[i].split in (None, "train"))
    least = 1 if any(file.split == "validation" for file in files) else 2
    poor = [name for name in {file.label for file in files} if counts[name] < least]
    if poor or len(counts) < 2:
        need = "two classes with at least two images each" if least == 2 else "two classes with images to train on"
        left = " after excluding unusable images" if len(used) < len(files) else ""
        raise FolderError(
            f"Expected {need}, got too few for {shorten(poor or counts)}{left}. Add images or remove the class."
        )


def _warn_of_divided_groups(groups: Sequence[int], splits: Sequence[str]) -> None:
    """Warn of groups that lie in several of the splits that the data came with."""
    splits_per_group = Counter(group for group, _ in set(zip(groups, splits, strict=True)))
    divided = sum(count > 1 for count in splits_per_group.values())
    if divided:
        log.warning("data: %d groups of --group_by lie in several of the splits that the data came with", divided)


def _check_splits(labels: Sequence[str], splits: Sequence[str]) -> None:
    """Raise FolderError for a class without training images; warn of one without validation images."""
    pairs = set(zip(labels, splits, strict=True))
    train, validation = ({label for label, split in pairs if split == name} for name in ("train", "validation"))
    untrained = set(labels) - train
    if untrained:
        raise FolderError(
            f"Expected images to train on in each class, got none in {shorten(untrained)}: all of them belong together "
            "with images of other classes. Add images, or group them otherwise (--group_by)."
        )
    if not validation:
        raise FolderError(
            "Expected images to validate on, got none: all images of each class belong together, as copies or by "
            "--group_by. Add images from elsewhere, or group them otherwise."
        )
    unvalidated = set(labels) - validation
    if unvalidated:
        log.warning(
            "data: no validation image of %s: all images of the class belong together, as copies or by --group_by",
            shorten(unvalidated),
        )
