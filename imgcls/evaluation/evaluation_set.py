"""Labelled images to judge a trained model by: a folder of its own, or what its run held out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from imgcls.config.data_options import SourceOptions
from imgcls.config.inference_options import ValidateOptions
from imgcls.data import dataset
from imgcls.data.dataset import ImageCollection
from imgcls.data.location import DEFAULT_FOLDER, resolve_location
from imgcls.errors import FolderError, OptionError, RunError, nearest, shorten
from imgcls.storage import run_folder

log = logging.getLogger(__name__)

HELD_OUT = ("test", "validation")  # the splits that tell something, the better one first


@dataclass
class EvaluationSet:
    """Images with their labels as the model numbers its classes.

    at: positions in `images`. calibrated_on: whether the run's temperature was fitted on them.
    """

    name: str
    images: ImageCollection
    at: list[int]
    labels: np.ndarray
    calibrated_on: bool = False

    @property
    def place(self) -> str:
        """Where the images are from, so that two folders of the same name can be told apart."""
        return f"{self.images.listing.root.resolve()}"

    def source(self, i: int) -> str | bytes:
        """Path or encoded bytes of image i of these."""
        return self.images.source(self.at[i])

    @property
    def paths(self) -> list[str]:
        """Relative to the data folder."""
        return [self.images.listing.files[i].path for i in self.at]

    def without(self, broken: Sequence[int]) -> EvaluationSet:
        """The same without some of them."""
        gone = set(broken)
        kept = [i for i in range(len(self.at)) if i not in gone]
        return replace(self, at=[self.at[i] for i in kept], labels=self.labels[kept])


def open_evaluation_set(
    asked: ValidateOptions, data: SourceOptions, run: run_folder.RunFolder, classes: Sequence[str]
) -> EvaluationSet:
    """The images to judge by: those of --data, or without it those of the run's own data that were held out.

    Raises FolderError for classes that the model does not know, RunError when the run's own data is gone.
    """
    own = run.read_options() or {}
    split_of = {row["path"]: row["split"] for row in run.read_csv(run_folder.SPLIT)}
    if data.data is None:
        found, at, name = _held_out(asked, data, run, own, split_of)
    else:
        found = _open(data)
        at, name = _chosen(found, asked.split), found.location.name
    learned = sum(split_of.get(found.listing.files[i].path) == "train" for i in at)
    own_images = data.data is None or _same_place(data, own)
    if learned and own_images:
        log.warning(
            "data: %d of these %d images were trained on: the numbers will flatter. Give neither --data nor --split to "
            "judge by the ones that were held out.", learned, len(at),
        )  # fmt: skip
    files = found.listing.files
    unknown = {files[i].label for i in at} - set(classes)
    if unknown:
        raise FolderError(
            f"Expected classes that the model knows ({shorten(classes)}), got {shorten(unknown)} in "
            f"{found.location.name}. Nearest to {min(unknown)}: {', '.join(nearest(min(unknown), classes))}. Rename "
            "the folders, or take the others out."
        )
    missing = set(classes) - {files[i].label for i in at}
    if missing:
        log.warning("data: no images of %s: nothing is said of them", shorten(missing))
    labels = np.array([classes.index(files[i].label) for i in at])
    used = own_images and any(split_of.get(files[i].path) == "validation" for i in at)
    return EvaluationSet(asked.name or name, found, at, labels, used)


def _open(data: SourceOptions) -> ImageCollection:
    return dataset.open_images(resolve_location(data.data), data.image_column, data.label_column, strict=False)


def _chosen(found: ImageCollection, split: str) -> list[int]:
    splits_there = {file.split for file in found.listing.files}
    if split == "auto":
        split = next((name for name in HELD_OUT if name in splits_there), "all")
    if split == "all":
        return list(range(len(found.listing.files)))
    if split not in splits_there:
        raise OptionError(
            f"Expected a split of the data for --split, got {split}; it has {shorten(map(str, splits_there))}."
        )
    return [i for i, file in enumerate(found.listing.files) if file.split == split]


def _held_out(
    asked: ValidateOptions, data: SourceOptions, run: run_folder.RunFolder, own: dict, split_of: dict[str, str]
) -> tuple[ImageCollection, list[int], str]:
    if not split_of:
        raise OptionError(
            f"Expected --data, a labelled folder, got none, and {run.path} does not say what it was made of."
        )
    split = asked.split
    if split == "auto":
        split = next(name for name in HELD_OUT if name in split_of.values())
    data = SourceOptions(
        own.get("data"),
        data.image_column or own.get("image_column"),
        data.label_column or own.get("label_column"),
    )
    path = resolve_location(data.data).path
    if path is not None and not path.exists():
        raise RunError(
            f"Expected the data that {run.path} was made of in {data.data}, which is not there. Give --data."
        )
    found = _open(data)
    paths = [file.path for file in found.listing.files]
    at = [i for i, path in enumerate(paths) if path in split_of and split in ("all", split_of[path])]
    if not at:
        raise RunError(f"Expected images of the run's {split} split in {found.location.name}, got none. Give --data.")
    return found, at, split


def _same_place(data: SourceOptions, own: dict) -> bool:
    """Whether the images are those of the run. An option that was not given means the same folder as now."""
    one, other = (name or DEFAULT_FOLDER for name in (data.data, own.get("data")))
    return one == other or Path(one).expanduser().resolve() == Path(other).expanduser().resolve()
