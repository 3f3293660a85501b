"""Labelled images for the evaluation of a trained model: another folder, or the images held out in its training."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
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

HELD_OUT_SPLITS = ("test", "validation")  # the better choice first


@dataclass
class EvaluationSet:
    """Images with labels, numbered as the model numbers its classes.

    collection: all images of the data. indices: positions in it of the images to evaluate, (N,). labels: int (N,).
    calibrated_on: whether the model's temperature was fitted on these images.
    """

    name: str
    collection: ImageCollection
    indices: list[int]
    labels: np.ndarray
    calibrated_on: bool = False

    @property
    def place(self) -> str:
        """Absolute path or id of the data, which tells folders of the same name apart."""
        return f"{self.collection.listing.root.resolve()}"

    def source(self, i: int) -> str | bytes:
        """Path or encoded bytes of image i of these."""
        return self.collection.source(self.indices[i])

    @property
    def paths(self) -> list[str]:
        """Paths relative to the data folder, (N,)."""
        return [self.collection.listing.files[i].path for i in self.indices]

    def subset(self, positions: Sequence[int]) -> EvaluationSet:
        """The images at these positions, in the given order."""
        return replace(self, indices=[self.indices[i] for i in positions], labels=self.labels[list(positions)])


def open_evaluation_set(
    options: ValidateOptions, data: SourceOptions, run: run_folder.RunFolder, classes: Sequence[str]
) -> EvaluationSet:
    """The images of `--data`, or without it the held-out images of the run's own data.

    Raises FolderError for classes that the model does not know, OptionError for a split that the data does not have,
    RunError when the run's own data cannot be found.
    """
    run_options = run.read_options() or {}
    split_of = {row["path"]: row["split"] for row in run.read_csv(run_folder.SPLIT)}
    if data.data is None:
        data = _own_source(data, run, run_options, is_split_known=bool(split_of))
        collection = _open(data)
        indices, name = _held_out(collection, options.split, run, split_of)
    else:
        collection = _open(data)
        indices, name = _images_of_split(collection, options.split), collection.location.name
    splits: list[str | None] = [None] * len(indices)
    if _is_same_data(data, run_options):
        splits = [split_of.get(collection.listing.files[i].path) for i in indices]
    _warn_of_training_images(splits)
    labels = _label_numbers([collection.listing.files[i].label for i in indices], classes, collection.location.name)
    return EvaluationSet(options.name or name, collection, indices, labels, calibrated_on="validation" in splits)


def _warn_of_training_images(splits: Sequence[str | None]) -> None:
    learned = splits.count("train")
    if learned:
        log.warning(
            "data: the model was trained on %d of these %d images, so its numbers will be too good. To evaluate on "
            "held-out images, set neither --data nor --split.",
            learned,
            len(splits),
        )


def _label_numbers(labels: Sequence[str], classes: Sequence[str], name: str) -> np.ndarray:
    unknown = set(labels) - set(classes)
    if unknown:
        raise FolderError(
            f"Expected classes that the model knows ({shorten(classes)}), got {shorten(unknown)} in {name}. "
            f"Nearest to {min(unknown)}: {', '.join(nearest(min(unknown), classes))}. Rename the folders, or remove "
            "the other ones."
        )
    missing = set(classes) - set(labels)
    if missing:
        log.warning("data: no images of %s; these classes are not evaluated", shorten(missing))
    return np.array([classes.index(label) for label in labels])


def _open(data: SourceOptions) -> ImageCollection:
    return dataset.open_images(resolve_location(data.data), data.image_column, data.label_column, strict=False)


def _images_of_split(collection: ImageCollection, split: str) -> list[int]:
    files = collection.listing.files
    known = {file.split for file in files}
    if split == "auto":
        split = next((name for name in HELD_OUT_SPLITS if name in known), "all")
    if split == "all":
        return list(range(len(files)))
    if split not in known:
        raise OptionError(f"Expected a split of the data for --split, got {split}; it has {shorten(map(str, known))}.")
    return [i for i, file in enumerate(files) if file.split == split]


def _own_source(
    data: SourceOptions, run: run_folder.RunFolder, run_options: Mapping, *, is_split_known: bool
) -> SourceOptions:
    """Where the run's own images are."""
    if not is_split_known:
        raise OptionError(
            f"Expected --data, a labelled folder, got none, and {run.path} does not record the images it was trained "
            "on. Set --data."
        )
    own = replace(
        data,
        data=run_options.get("data"),
        image_column=data.image_column or run_options.get("image_column"),
        label_column=data.label_column or run_options.get("label_column"),
    )
    path = resolve_location(own.data).path
    if path is not None and not path.exists():
        raise RunError(f"Expected the training data of {run.path} in {own.data}, which does not exist. Set --data.")
    return own


def _held_out(
    collection: ImageCollection, split: str, run: run_folder.RunFolder, split_of: Mapping[str, str]
) -> tuple[list[int], str]:
    """Indices of a split of the run's own images, and the split's name."""
    if split == "auto":
        split = next((name for name in HELD_OUT_SPLITS if name in split_of.values()), HELD_OUT_SPLITS[-1])
    paths = [file.path for file in collection.listing.files]
    indices = [i for i, path in enumerate(paths) if path in split_of and split in ("all", split_of[path])]
    if not indices:
        raise RunError(
            f"Expected images of the {split} split of {run.path} in {collection.location.name}, got none. Set --data."
        )
    return indices, split


def _is_same_data(data: SourceOptions, run_options: Mapping) -> bool:
    """Whether the images are those of the run. Without the option `data`, it is the default folder in both."""
    one, other = (name or DEFAULT_FOLDER for name in (data.data, run_options.get("data")))
    return one == other or Path(one).expanduser().resolve() == Path(other).expanduser().resolve()
