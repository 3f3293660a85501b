"""Loads a data set of the Hub, or its copy in the cache, as rows with one label and one split each."""

from __future__ import annotations

import logging
from collections.abc import Callable

import datasets
from datasets import config
from huggingface_hub.errors import HfHubHTTPError

from imgcls.data.listing import SPLIT_OF, ImageFile
from imgcls.errors import FolderError, one_line, shorten
from imgcls.system.network import file_metadata

log = logging.getLogger(__name__)


def load_hub_dataset(
    hub_id: str, image_column: str | None, label_column: str | None
) -> tuple[datasets.Dataset, list[ImageFile]]:
    """Rows with the column "image", not decoded, and path, label and split of each; images without a label are skipped.

    Columns are found by their type if None. Raises FolderError if the data set is unavailable, has no train split, no
    such column, or several labels per image.
    """
    loaded = {str(name): part for name, part in _load(hub_id).items()}
    parts = {name: part for name, part in loaded.items() if name.lower() in SPLIT_OF}
    train = next((part for name, part in parts.items() if SPLIT_OF[name.lower()] == "train"), None)
    if train is None:
        raise FolderError(f"Expected a train split in {hub_id}, got {shorten(loaded)}. Choose another data set.")
    features = train.features
    image_column = image_column or _only_column(features, lambda f: isinstance(f, datasets.Image), "image", hub_id)
    label_column = label_column or _only_column(features, lambda f: isinstance(f, datasets.ClassLabel), "label", hub_id)
    for column in (image_column, label_column):
        if column not in features:
            raise FolderError(f"Expected a column {column!r} in {hub_id}, got {shorten(features)}.")
    rows, files = [], []
    for name, part in parts.items():
        texts = _label_texts(part, label_column, hub_id)
        labelled = {i: text for i, text in enumerate(texts) if text is not None}
        if len(labelled) < len(texts):
            log.info("data: %d images of %s without a label are skipped", len(texts) - len(labelled), name)
        part = part.select_columns([image_column])
        if image_column != "image":
            part = part.rename_column(image_column, "image")
        rows.append(part.cast_column("image", datasets.Image(decode=False)).select(list(labelled)))
        files += [ImageFile(f"{name}/{i}", text, SPLIT_OF[name.lower()]) for i, text in labelled.items()]
    return datasets.concatenate_datasets(rows), files


def _load(hub_id: str) -> datasets.DatasetDict:
    """A data set of the Hub, or its copy in the cache if the Hub does not answer."""
    offline = config.HF_HUB_OFFLINE
    try:
        file_metadata(hub_id, "README.md", repo_type="dataset")
    except Exception as error:  # httpx errors, OSError, TimeoutError: the client has no base class for them
        if not isinstance(error, HfHubHTTPError):  # it answers: load_dataset reports what it says
            log.info("data: the Hub does not answer; looking for %s in the cache", hub_id)
            config.HF_HUB_OFFLINE = True  # without this load_dataset retries for 23 s
    try:
        return datasets.load_dataset(hub_id)
    except Exception as error:  # network, HTTP, parsing and value errors: again no base class
        raise FolderError(
            f"Expected a folder, a CSV or a Hub data set, got {hub_id!r}, which is neither on this disk nor "
            f"available on the Hub ({type(error).__name__}: {one_line(error)}). Check the name and the network."
        ) from error
    finally:
        config.HF_HUB_OFFLINE = offline


def _only_column(features: datasets.Features, fits: Callable[[object], bool], kind: str, hub_id: str) -> str:
    matches = [name for name, feature in features.items() if fits(feature)]
    if len(matches) == 1:
        return matches[0]
    raise FolderError(
        f"Expected one {kind} column in {hub_id}, got {shorten(matches) or 'none'} among {shorten(features)}. "
        f"Name it with --{kind}_column."
    )


def _label_texts(part: datasets.Dataset, column: str, hub_id: str) -> list[str | None]:
    """Class name of each row, None without a label. Raises FolderError for several labels per image."""
    feature = part.features[column]
    values = part[column][:]
    if isinstance(feature, datasets.ClassLabel):
        return [None if v is None or v < 0 else feature.names[v] for v in values]
    if any(isinstance(v, (list, dict)) for v in values[:1000]) or isinstance(feature, (datasets.List, dict)):
        raise FolderError(
            f"Expected one label per image in column {column!r} of {hub_id}, got several. imgcls assigns each image "
            "to exactly one class; choose a column with one value."
        )
    return [None if v is None or v == -1 else str(v) for v in values]
