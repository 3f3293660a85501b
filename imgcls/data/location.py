"""What --data means: the demo, a folder, a CSV, or a data set of the Hub."""

from __future__ import annotations

import logging
from pathlib import Path

from imgcls.config.data_options import SourceOptions
from imgcls.data import csv_table, demo_digits, image_folder
from imgcls.data.listing import Listing
from imgcls.storage import array_cache

log = logging.getLogger(__name__)

DEFAULT_FOLDER = "train_images"


def is_demo(options: SourceOptions) -> bool:
    """Whether nothing is named and ./train_images is not there."""
    return options.data is None and not Path(DEFAULT_FOLDER).is_dir()


def hub_id(options: SourceOptions) -> str | None:
    """The data set's name on the Hub; None when --data means something on this disk."""
    wanted = options.data or ""
    place = Path(wanted).expanduser()
    on_hub = wanted.count("/") == 1 and not wanted.startswith((".", "~", "/"))
    return wanted if on_hub and not place.exists() and not place.parent.exists() else None


def name(options: SourceOptions) -> str:
    """What the data is called, for the names of folders."""
    if is_demo(options):
        return "digits"
    place = Path(options.data or DEFAULT_FOLDER).expanduser().resolve()
    return hub_id(options).split("/")[1] if hub_id(options) else place.stem if place.is_file() else place.name


def resolve_listing(options: SourceOptions, *, strict: bool = True) -> Listing:
    """The images on this disk that --data means; the demo is written there first.

    Raises FolderError when they are not one label an image in at least two classes; not strict: only when there is no
    such folder or table.
    """
    if is_demo(options):
        log.info(
            "data: no --data and no ./%s: the demo of %d handwritten digits", DEFAULT_FOLDER, demo_digits.DEMO_IMAGES
        )
        return image_folder.scan_image_folder(demo_digits.write_demo_digits(array_cache.cache_folder()))
    return read_listing(Path(options.data or DEFAULT_FOLDER).expanduser(), strict=strict)


def read_listing(path: str | Path, *, strict: bool = True) -> Listing:
    """A folder of class folders, or a .csv or .tsv with a path and a label column."""
    path = Path(path)
    is_table = path.is_file() and path.suffix.lower() in (".csv", ".tsv")
    return csv_table.read_csv(path, strict=strict) if is_table else image_folder.scan_image_folder(path, strict=strict)
