"""Class folders, a CSV or a Hub data set -> rows of `datasets` with their label, and their division into splits."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import datasets
from datasets.data_files import DataFilesDict, DataFilesList
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

from imgcls import cache, digits, folder, hub_rows, splits, table
from imgcls.errors import FolderError, shorten
from imgcls.listing import Listing
from imgcls.options import DataOptions

log = logging.getLogger(__name__)

DEFAULT_FOLDER = "train_images"
DEMO_PX = digits.IMAGE_PX
_UNDECODED = datasets.Image(decode=False)


@dataclass
class Images:
    """All images of a task in one order, before they are divided.

    rows: `datasets.Dataset` with the column "image" ({"path", "bytes"}, not decoded). paths: how people know each
    image. keys: what verdicts are kept under. splits: the split each came in, None where the data has none.
    """

    name: str
    rows: datasets.Dataset
    paths: list[str]
    keys: list[str]
    labels: list[str]
    splits: list[str | None]
    is_demo: bool = False

    def source(self, i: int) -> str | bytes:
        """Path or encoded bytes of image i."""
        image = self.rows[i]["image"]
        return image["bytes"] or image["path"]


def open_images(options: DataOptions) -> Images:
    """The images that `--data` names; the demo when nothing is named and ./train_images is not there.

    Raises FolderError when they are not one label an image in at least two classes.
    """
    if options.data is None and not Path(DEFAULT_FOLDER).is_dir():
        log.info("data: no --data and no ./%s: the demo of %d handwritten digits", DEFAULT_FOLDER, digits.COUNT)
        images = from_listing(folder.scan(digits.class_folders(cache.folder())), "digits")
        images.is_demo = True
        return images
    place = Path(options.data or DEFAULT_FOLDER).expanduser()
    hub_id = options.data or ""
    is_hub_id = hub_id.count("/") == 1 and not hub_id.startswith((".", "~", "/"))
    if is_hub_id and not place.exists() and not place.parent.exists():
        return from_hub(hub_id, options.image_column, options.label_column)
    listing = read_listing(place)
    left_out = listing.summary()
    if left_out:
        log.info("data: %s", left_out)
    return from_listing(listing, place.resolve().stem if place.is_file() else place.resolve().name)


def read_listing(path: str | Path) -> Listing:
    """A folder of class folders, or a .csv or .tsv with a path and a label column."""
    path = Path(path)
    is_table = path.is_file() and path.suffix.lower() in (".csv", ".tsv")
    return table.read_csv(path) if is_table else folder.scan(path)


def from_listing(listing: Listing, name: str) -> Images:
    """Rows for files on disk, loaded through `datasets` imagefolder.

    The builder is handed the resolved files, because `load_dataset(data_files=...)` looks each one up as a
    pattern (8 ms a file, 27 minutes for 200,000; this way 0.1 ms). It is told to infer nothing: classes and
    splits are the listing's. What imagefolder would skip (suffixes) or fall over (broken links) comes as rows of
    its own.
    """
    files = [str(listing.absolute(f)) for f in listing.files]
    usual = [f for f in files if Path(f).suffix.lower() in ImageFolder.EXTENSIONS and os.path.exists(f)]
    rows = _imagefolder(usual) if usual else _rows(files)
    if 0 < len(usual) < len(files):
        rows = datasets.concatenate_datasets([rows, _rows(sorted(set(files) - set(usual)))])
    at = {path: i for i, path in enumerate(row["path"] for row in rows["image"])}
    order = [at[f] for f in files]
    return Images(
        name,
        rows if order == list(range(len(order))) else rows.select(order),
        [f.path for f in listing.files],
        files,
        [f.label for f in listing.files],
        [f.split for f in listing.files],
    )


def _imagefolder(files: list[str]) -> datasets.Dataset:
    stamps = [(str(os.stat(f).st_mtime_ns),) for f in files]
    builder = ImageFolder(
        data_files=DataFilesDict({"train": DataFilesList(files, stamps)}), drop_labels=True, drop_metadata=True
    )
    builder.download_and_prepare()
    return builder.as_dataset(split="train").cast_column("image", _UNDECODED)


def _rows(files: list[str]) -> datasets.Dataset:
    images = [{"path": f, "bytes": None} for f in files]
    return datasets.Dataset.from_dict({"image": images}, features=datasets.Features({"image": _UNDECODED}))


def from_hub(hub_id: str, image_column: str | None, label_column: str | None) -> Images:
    """Rows of a data set on the Hub; its splits are kept, images without a label (-1) are left out."""
    rows, paths, labels, found = hub_rows.load(hub_id, image_column, label_column)
    keys = [f"{hub_id}@{rows._fingerprint}/{path}" for path in paths]
    return Images(hub_id.split("/")[1], rows, paths, keys, labels, found)


@dataclass
class Division:
    """The images that are used, each in one split. rows[split] has the columns "image" and "label" (int).

    keys: as of `Images`, what is kept of an image between runs is kept under its key.
    """

    classes: list[str]
    rows: dict[str, datasets.Dataset]
    paths: dict[str, list[str]]
    keys: dict[str, list[str]]

    def table(self) -> list[tuple[str, str, str, str]]:
        """Rows of split.csv: path, label, split, group."""
        return [
            (path, self.classes[label], split, "")
            for split, rows in self.rows.items()
            for path, label in zip(self.paths[split], rows["label"], strict=True)
        ]

    def folds(self, count: int, val_fraction: float, seed: int) -> Iterator[Division]:
        """`count` divisions of the training and validation images; each image is in the "test" of exactly one.

        Of what a fold leaves, each class gives its share to validation. Raises FolderError for a class of one image
        or too few in all, OptionError for more folds than images.
        """
        parts = [split for split in ("train", "validation") if split in self.rows]
        rows = datasets.concatenate_datasets([self.rows[split] for split in parts])
        paths = [path for split in parts for path in self.paths[split]]
        keys = [key for split in parts for key in self.keys[split]]
        names = [self.classes[label] for label in rows["label"]]
        lone = [name for name, images in Counter(names).items() if images < 2]
        if lone:
            raise FolderError(
                f"Expected at least 2 images in each class for --folds, got 1 in {shorten(lone)}. Add images, or leave "
                "--folds out."
            )
        fold = splits.folds(names, count, seed)
        for k in range(count):
            rest = [i for i, of in enumerate(fold) if of != k]
            chosen = splits.stratified([names[i] for i in rest], {"validation": val_fraction}, seed)
            at = {"test": [i for i, of in enumerate(fold) if of == k]}
            for split in ("train", "validation"):
                at[split] = [i for i, of in zip(rest, chosen, strict=True) if of == split]
            if not at["validation"]:
                raise FolderError(
                    f"Expected images enough to train, validate and test in each of {count} folds, got {len(names)} in "
                    f"{len(self.classes)} classes. Add images, or leave --folds out."
                )
            yield Division(
                self.classes,
                {split: rows.select(at[split]) for split in ("train", "validation", "test")},
                {split: [paths[i] for i in at[split]] for split in at},
                {split: [keys[i] for i in at[split]] for split in at},
            )

    def imbalance(self, split: str) -> float:
        """Images of the largest class over those of the smallest one that occurs in a split."""
        counts = Counter(self.rows[split]["label"]).values()
        return max(counts) / min(counts)


def divide(images: Images, excluded: dict[int, str], options: DataOptions, seed: int) -> Division:
    """Leave the excluded positions (with their reasons) out and give every other image its split.

    Splits that the data came with are kept; without a validation split each class gives its share, seeded.
    Raises FolderError when what is left cannot be trained on.
    """
    if excluded and options.bad_images == "error":
        raise FolderError(
            f"Expected images that can be decoded, got {len(excluded)} that cannot: {_broken(images, excluded)}. "
            "Mend or remove them, or leave them out with --bad_images skip."
        )
    kept = [i for i in range(len(images.paths)) if i not in excluded]
    _check_enough(images, kept, excluded)
    if excluded:
        log.info("data: %d images cannot be decoded and are left out: %s", len(excluded), _broken(images, excluded))
    chosen = [images.splits[i] for i in kept]
    wanted = {"validation": options.val_fraction, "test": options.test_fraction}
    open_fractions = {name: f for name, f in wanted.items() if f > 0 and name not in chosen}
    free = [j for j, split in enumerate(chosen) if split in (None, "train")]
    if open_fractions:
        for j, split in zip(
            free, splits.stratified([images.labels[kept[j]] for j in free], open_fractions, seed), strict=True
        ):
            chosen[j] = split
    classes = sorted({images.labels[i] for i in kept})
    number = {name: i for i, name in enumerate(classes)}
    rows, paths, keys = {}, {}, {}
    for split in ("train", "validation", "test"):
        at = [i for i, chosen_split in zip(kept, chosen, strict=True) if (chosen_split or "train") == split]
        if not at:
            continue
        labels = [number[images.labels[i]] for i in at]
        feature = datasets.ClassLabel(names=classes)
        rows[split] = images.rows.select(at).add_column("label", labels, feature=feature)
        paths[split] = [images.paths[i] for i in at]
        keys[split] = [images.keys[i] for i in at]
    return Division(classes, rows, paths, keys)


def _broken(images: Images, excluded: dict[int, str]) -> str:
    return shorten(f"{images.paths[i]} ({why})" for i, why in excluded.items())


def _check_enough(images: Images, kept: list[int], excluded: dict[int, str]) -> None:
    if not kept:
        raise FolderError(
            f"Expected images that can be decoded in {images.name}, got none among {len(images.paths)}: "
            f"{_broken(images, excluded)}. Give a folder of photos."
        )
    counts = Counter(images.labels[i] for i in kept if images.splits[i] in (None, "train"))
    least = 1 if "validation" in images.splits else 2
    poor = [name for name in set(images.labels) if counts[name] < least]
    if poor or len(counts) < 2:
        need = "two classes with at least two images each" if least == 2 else "two classes with images to train on"
        left = " once those that cannot be decoded are left out" if excluded else ""
        raise FolderError(
            f"Expected {need}, got too few for {shorten(poor or counts)}{left}. Add images or remove the class."
        )
