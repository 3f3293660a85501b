"""What --data names: a folder, a CSV, a data set of the Hub, or the demo."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from imgcls.data import csv_table, demo_digits, image_folder
from imgcls.data.listing import Listing
from imgcls.storage import array_cache

log = logging.getLogger(__name__)

DEFAULT_FOLDER = "train_images"
_TABLE_SUFFIXES = (".csv", ".tsv")


@dataclass(frozen=True)
class DataLocation:
    """Where the images are: exactly one of `path` (a folder or a CSV) and `hub_id` is set; neither for the demo.

    name: what the data is called in the names of run folders.
    """

    name: str
    path: Path | None = None
    hub_id: str | None = None

    @property
    def is_demo(self) -> bool:
        """Whether these are the embedded digits."""
        return self.path is None and self.hub_id is None

    def listing(self, *, strict: bool = True) -> Listing:
        """The images on this disk; the demo is written to the cache folder first.

        Raises ValueError for a data set of the Hub, and FolderError unless each image has one label among at least two
        classes; not strict: only if the folder or table does not exist.
        """
        if self.hub_id is not None:
            raise ValueError(f"Expected images on this disk, got the Hub data set {self.hub_id}.")
        if self.path is not None:
            return read_listing(self.path, strict=strict)
        log.info(
            "data: no --data and no ./%s: using the demo of %d handwritten digits",
            DEFAULT_FOLDER,
            demo_digits.DEMO_IMAGES,
        )
        return image_folder.scan_image_folder(demo_digits.write_demo_digits(array_cache.cache_folder()))


def resolve_location(data: str | None) -> DataLocation:
    """The location that a value of --data names; None means ./train_images, or the demo if that does not exist.

    owner/name is a data set of the Hub unless such a path, or a folder "owner", exists here. Whether a path exists is
    checked when it is read.
    """
    if data is None and not Path(DEFAULT_FOLDER).is_dir():
        return DataLocation("digits")
    path = Path(data or DEFAULT_FOLDER).expanduser()
    if data and _names_hub_dataset(data, path):
        return DataLocation(data.split("/")[1], hub_id=data)
    resolved = path.resolve()
    return DataLocation(resolved.stem if resolved.is_file() else resolved.name, path)


def _names_hub_dataset(data: str, path: Path) -> bool:
    has_hub_form = data.count("/") == 1 and not data.startswith((".", "~", "/"))
    return has_hub_form and not path.exists() and not path.parent.exists()


def read_listing(path: str | Path, *, strict: bool = True) -> Listing:
    """The images of a folder of class folders, or of a .csv or .tsv with a path and a label column.

    Raises FolderError, see `csv_table.read_csv` and `image_folder.scan_image_folder`.
    """
    path = Path(path)
    if path.is_file() and path.suffix.lower() in _TABLE_SUFFIXES:
        return csv_table.read_csv(path, strict=strict)
    return image_folder.scan_image_folder(path, strict=strict)
