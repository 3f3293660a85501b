"""Which split each image is in: train, validation, test, and cross-validation folds."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import datasets
import numpy as np

from imgcls.config.data_options import DataOptions
from imgcls.data import stratified_split
from imgcls.data.dataset import ImageCollection
from imgcls.errors import FolderError, shorten

log = logging.getLogger(__name__)


@dataclass
class DatasetSplits:
    """The images that are used, each in one split. rows[split] has the columns "image" and "label" (int).

    keys: see `ImageCollection`. groups: number of the group of each image, see `stratified_split`.
    """

    classes: list[str]
    rows: dict[str, datasets.Dataset]
    paths: dict[str, list[str]]
    keys: dict[str, list[str]]
    groups: dict[str, list[int]]

    def labels(self, split: str) -> list[int]:
        """Number of the class of each image; read at once, in a tenth of the time that row by row takes."""
        return self.rows[split]["label"][:]

    def table(self) -> list[tuple[str, str, str, str]]:
        """Rows of split.csv: path, label, split, group; the group is called like its first image, "" for one alone."""
        members = Counter(group for groups in self.groups.values() for group in groups)
        first: dict[int, str] = {}
        for split in self.rows:
            for group, path in zip(self.groups[split], self.paths[split], strict=True):
                if members[group] > 1:
                    first[group] = min(path, first.get(group, path))
        return [
            (path, self.classes[label], split, first.get(group, ""))
            for split in self.rows
            for path, label, group in zip(self.paths[split], self.labels(split), self.groups[split], strict=True)
        ]

    def folds(self, count: int, val_fraction: float, seed: int) -> Iterator[DatasetSplits]:
        """`count` divisions of the training and validation images; each image is in the "test" of exactly one.

        Of what a fold leaves, each class gives its share to validation; groups stay whole. Raises FolderError for a
        class of one image or too few in all, OptionError for more folds than images.
        """
        parts = [split for split in ("train", "validation") if split in self.rows]
        rows = datasets.concatenate_datasets([self.rows[split] for split in parts])
        paths, keys, groups = (
            [value for split in parts for value in of[split]] for of in (self.paths, self.keys, self.groups)
        )
        names = [self.classes[label] for label in rows["label"][:]]
        alone = Counter(name for name, _ in set(zip(names, groups, strict=True)))
        lone = [name for name, count in alone.items() if count < 2]
        if lone:
            raise FolderError(
                f"Expected at least 2 images in each class for --folds, got 1 in {shorten(lone)} (images that belong "
                "together count as one). Add images, or leave --folds out."
            )
        fold = stratified_split.stratified_group_folds(names, count, seed, groups)
        for k in range(count):
            rest = [i for i, of in enumerate(fold) if of != k]
            of_rest = [groups[i] for i in rest]
            chosen = stratified_split.stratified_group_split(
                [names[i] for i in rest], {"validation": val_fraction}, seed, of_rest
            )
            at = {"test": [i for i, of in enumerate(fold) if of == k]}
            for split in ("train", "validation"):
                at[split] = [i for i, of in zip(rest, chosen, strict=True) if of == split]
            if not at["validation"] or not at["test"]:
                raise FolderError(
                    f"Expected images enough to train, validate and test in each of {count} folds, got {len(names)} in "
                    f"{len(self.classes)} classes. Add images, or leave --folds out."
                )
            at = {split: at[split] for split in ("train", "validation", "test")}
            yield DatasetSplits(
                self.classes,
                {split: rows.select(np.array(some)) for split, some in at.items()},
                *({split: [of[i] for i in some] for split, some in at.items()} for of in (paths, keys, groups)),
            )

    def imbalance(self, split: str) -> float:
        """Images of the largest class over those of the smallest one that occurs in a split."""
        counts = Counter(self.labels(split)).values()
        return max(counts) / min(counts)


def make_splits(
    images: ImageCollection,
    excluded: Mapping[int, str],
    options: DataOptions,
    seed: int,
    groups: Sequence[int] | None = None,
) -> DatasetSplits:
    """Leave the excluded positions (with their reasons) out and give every other image its split.

    Splits that the data came with are kept; without a validation split each class gives its share, seeded. groups:
    number of the group of each image; a group lands in one split (None: each image stands alone). Raises FolderError
    when what is left cannot be trained on.
    """
    files = images.listing.files
    kept = [i for i in range(len(files)) if i not in excluded]
    _check_enough(images, kept)
    if excluded:
        plural = "" if len(excluded) == 1 else "s"
        log.info("data: %d image%s left out: %s", len(excluded), plural, _left_out(images, excluded))
    numbers = [int(group) for group in (range(len(files)) if groups is None else groups)]
    chosen = [files[i].split for i in kept]
    wanted = {"validation": options.val_fraction, "test": options.test_fraction}
    open_fractions = {name: f for name, f in wanted.items() if f > 0 and name not in chosen}
    free = [j for j, split in enumerate(chosen) if split in (None, "train")]
    if open_fractions:
        labels, of_free = zip(*((files[kept[j]].label, numbers[kept[j]]) for j in free), strict=True)
        for j, split in zip(
            free, stratified_split.stratified_group_split(labels, open_fractions, seed, of_free), strict=True
        ):
            chosen[j] = split
    if options.group_by != "none":
        _warn_of_torn([(numbers[i], split or "train") for i, split in zip(kept, chosen, strict=True)])
    classes = sorted({files[i].label for i in kept})
    _check_divided([files[i].label for i in kept], chosen)
    number = {name: i for i, name in enumerate(classes)}
    labels = np.array([number.get(file.label, -1) for file in files])  # -1: all of the class are left out
    # before rows are picked: a column is added to those that were in 25 us a row
    labelled = images.rows.add_column("label", labels, feature=datasets.ClassLabel(names=classes))
    rows, paths, keys, of_split = {}, {}, {}, {}
    for split in ("train", "validation", "test"):
        at = [i for i, chosen_split in zip(kept, chosen, strict=True) if (chosen_split or "train") == split]
        if not at:
            continue
        rows[split] = labelled.select(np.array(at))
        paths[split] = [files[i].path for i in at]
        keys[split] = [images.keys[i] for i in at]
        of_split[split] = [numbers[i] for i in at]
    return DatasetSplits(classes, rows, paths, keys, of_split)


def _left_out(images: ImageCollection, excluded: Mapping[int, str]) -> str:
    return shorten(f"{images.listing.files[i].path} ({why})" for i, why in excluded.items())


def _check_enough(images: ImageCollection, kept: list[int]) -> None:
    files = images.listing.files
    counts = Counter(files[i].label for i in kept if files[i].split in (None, "train"))
    least = 1 if any(file.split == "validation" for file in files) else 2
    poor = [name for name in {file.label for file in files} if counts[name] < least]
    if poor or len(counts) < 2:
        need = "two classes with at least two images each" if least == 2 else "two classes with images to train on"
        left = " once those that are unfit are left out" if len(kept) < len(files) else ""
        raise FolderError(
            f"Expected {need}, got too few for {shorten(poor or counts)}{left}. Add images or remove the class."
        )


def _warn_of_torn(parts: list[tuple[int, str]]) -> None:
    """Say how many groups lie in several of the given splits. parts: group and split of each image."""
    several = Counter(group for group, _ in set(parts))
    torn = sum(count > 1 for count in several.values())
    if torn:
        log.warning("data: %d groups of --group_by lie in several of the splits that the data came with", torn)


def _check_divided(labels: list[str], chosen: list[str | None]) -> None:
    """Raises FolderError for a class of which nothing is left to train on, and warns of one that is not validated."""
    of_split = {name: {label for label, split in zip(labels, chosen, strict=True) if (split or "train") == name}
                for name in ("train", "validation")}  # fmt: skip
    unlearned = set(labels) - of_split["train"]
    if unlearned:
        raise FolderError(
            f"Expected images to train on in each class, got none in {shorten(unlearned)}: all of them belong together "
            "with images of other classes. Add images, or group them otherwise (--group_by)."
        )
    unseen = set(labels) - of_split["validation"]
    if unseen == set(labels):
        raise FolderError(
            "Expected images to validate on, got none: all images of each class belong together, as copies or by "
            "--group_by. Add images from elsewhere, or group them otherwise."
        )
    if unseen:
        log.warning(
            "data: no image of %s can be validated on: all of each class belong together, as copies or by --group_by",
            shorten(unseen),
        )
