"""Class folders, a CSV or a Hub data set -> rows of `datasets`, before they are split."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
from datasets.data_files import DataFilesDict, DataFilesList
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

from imgcls.config.data_options import SourceOptions
from imgcls.data import demo_digits, hub_dataset, location
from imgcls.data.listing import ImageFile, Listing
from imgcls.errors import FolderError, shorten

log = logging.getLogger(__name__)

DEMO_INPUT_PX = demo_digits.DEMO_IMAGE_PX
_UNDECODED = datasets.Image(decode=False)


@dataclass
class ImageCollection:
    """All images of a task in one order, before they are divided.

    listing: path, label and split of each, and what was left out. rows: `datasets.Dataset` with the column "image"
    ({"path", "bytes"}, not decoded). keys: what is kept of an image between runs is kept under its key.
    """

    name: str
    listing: Listing
    rows: datasets.Dataset
    keys: list[str]
    is_demo: bool = False

    def source(self, i: int) -> str | bytes:
        """Path or encoded bytes of image i."""
        return image_source(self.rows[i])


def image_source(row: Mapping) -> str | bytes:
    """Path or encoded bytes of a row's image."""
    image = row["image"] or {"bytes": b"", "path": None}  # a data set of the Hub may hold nothing
    return image["bytes"] or image["path"] or b""


def open_images(options: SourceOptions) -> ImageCollection:
    """The images that `--data` names; the demo when nothing is named and ./train_images is not there.

    Raises FolderError when they are not one label an image in at least two classes.
    """
    hub_id = location.hub_id(options)
    if hub_id:
        return load_from_hub(hub_id, options.image_column, options.label_column)
    listing = location.resolve_listing(options)
    left_out = listing.summary()
    if left_out:
        log.info("data: %s", left_out)
    images = load_listing(listing, location.name(options))
    images.is_demo = location.is_demo(options)
    return images


def load_listing(listing: Listing, name: str) -> ImageCollection:
    """Rows for files on disk, loaded through `datasets` imagefolder.

    The builder is handed the resolved files, because `load_dataset(data_files=...)` looks each one up as a
    pattern (8 ms a file, 27 minutes for 200,000; this way 0.1 ms). It is told to infer nothing: classes and
    splits are the listing's. What imagefolder would skip (suffixes) or fall over (broken links) comes as rows of
    its own.
    """
    files = listing.paths()
    foreign = [file.path for file in listing.files if not _is_unicode(file.path)]
    if foreign:
        raise FolderError(f"Expected file names in UTF-8, got {shorten(map(ascii, foreign))}. Rename them.")
    usual = [f for f in files if os.path.splitext(f)[1].lower() in ImageFolder.EXTENSIONS and os.path.exists(f)]
    rows = _imagefolder(usual) if usual else _rows(files)
    if 0 < len(usual) < len(files):
        rows = datasets.concatenate_datasets([rows, _rows(sorted(set(files) - set(usual)))])
    at = {path: i for i, path in enumerate(row["path"] for row in rows["image"][:])}
    order = [at[f] for f in files]
    return ImageCollection(
        name,
        listing,
        rows if order == list(range(len(order))) else rows.select(np.array(order)),
        files,
    )


def _is_unicode(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


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


def load_from_hub(hub_id: str, image_column: str | None, label_column: str | None) -> ImageCollection:
    """Rows of a data set on the Hub; its splits are kept, images without a label (-1) are left out."""
    rows, paths, labels, found = hub_dataset.load_hub_dataset(hub_id, image_column, label_column)
    keys = [f"{hub_id}@{rows._fingerprint}/{path}" for path in paths]
    listing = Listing(Path(hub_id), [ImageFile(*image) for image in zip(paths, labels, found, strict=True)])
    return ImageCollection(hub_id.split("/")[1], listing, rows, keys)
