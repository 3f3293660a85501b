"""From a model's name to its files: a local folder, a row of the registry, or a download with a short time-out."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import errors as hub_errors
from huggingface_hub import snapshot_download, try_to_load_from_cache

from imgcls.errors import ModelError
from imgcls.models import registry
from imgcls.storage import run_folder
from imgcls.system.network import file_metadata

log = logging.getLogger(__name__)

CONFIG_FILES = ("config.json", "preprocessor_config.json")
WEIGHT_FILES = ("model.safetensors", "model*.safetensors*")


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from. `folder` holds its files; None before `fetch_model` and for random weights."""

    name: str
    checkpoint: registry.Checkpoint | None = None
    folder: Path | None = None

    @property
    def hub_id(self) -> str:
        """The Hub id, or the name as given where there is no other."""
        return self.checkpoint.hub_id if self.checkpoint else self.name

    @property
    def local_folder(self) -> Path:
        """`folder`, which must be known. Raises ModelError for a model that was not fetched."""
        if self.folder is None:
            raise ModelError(f"Expected the files of {self.name} in a local folder, got none. Fetch the model first.")
        return self.folder

    @property
    def short_name(self) -> str:
        """The name as part of a folder's name."""
        return self.checkpoint.name if self.checkpoint else Path(self.name).name

    @property
    def revision(self) -> str:
        """The branch, tag or commit to download."""
        return self.checkpoint.revision if self.checkpoint else "main"


class TrainingSource(NamedTuple):
    """The model that a training starts from, and whether its weights are random."""

    source: ModelSource
    from_scratch: bool


class HubUnreachable(ModelError):
    """The Hub does not respond and the model is not in the local cache."""


def resolve_model(name: str) -> ModelSource:
    """Interpret a model's name, without network: a local model folder, a known short name, or a Hub id.

    Raises ModelError for an unknown short name or a folder without config.json.
    """
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file():
        return ModelSource(name, folder=folder)
    if folder.is_dir() and ("/" in name or name not in registry.CHECKPOINTS):
        raise ModelError(f"Expected a model folder with config.json, got {name} without one. Give a run folder.")
    if name.startswith(("/", "./", "../", "~")):
        raise ModelError(f"Expected a model folder, got {name}, which does not exist. Give a run folder or a name.")
    return ModelSource(name, registry.find_checkpoint(name))


def fetch_model(source: ModelSource, weights: bool = True) -> ModelSource:
    """The same source with its files in a local folder: a local folder as it is, the Hub's cache, or a download.

    weights: False for configuration and image processor alone. Raises HubUnreachable within HUB_WAIT_S seconds when
    the Hub does not respond, ModelError when it refuses.
    """
    if source.folder is not None:
        return source
    try:
        folder = _snapshot(source, weights)
    except (hub_errors.RepositoryNotFoundError, hub_errors.RevisionNotFoundError) as error:
        raise ModelError(
            f"Expected a model on the Hub, got {source.hub_id}, which does not exist or is private. "
            "Check the name; for a private model log in with: hf auth login"
        ) from error
    except hub_errors.EntryNotFoundError as error:
        raise ModelError(
            f"Expected config.json in {source.hub_id}, got none. It is not a transformers model: choose another."
        ) from error
    except Exception as error:  # httpx errors, OSError, RuntimeError, TimeoutError: the client has no common class
        raise HubUnreachable(
            f"Expected to download {source.hub_id}, got no response from the Hub ({type(error).__name__}). "
            f"Download it once where there is a network (hf download {source.hub_id}), "
            "give a local model folder as --model, or start from random weights with --from_scratch."
        ) from error
    return ModelSource(source.name, source.checkpoint, Path(folder))


def fetch_for_training(source: ModelSource, from_scratch: bool, is_demo: bool) -> TrainingSource:
    """Fetch the files that a training needs. Without the Hub, the demo alone falls back to random weights.

    Raises what `fetch_model` raises.
    """
    if from_scratch and source.checkpoint:  # the table holds configuration and processor
        return TrainingSource(source, from_scratch)
    try:
        return TrainingSource(fetch_model(source, weights=not from_scratch), from_scratch)
    except HubUnreachable as error:
        if not is_demo:
            raise
        log.warning("%s\nThe demo continues without the download and starts from RANDOM WEIGHTS.", error)
        return TrainingSource(source, from_scratch=True)


def fetch_trained_model(name: str) -> Path:
    """The folder of a model to run, not to train: a run folder, a model folder, or a Hub id, downloaded.

    Raises what `resolve_model` and `fetch_model` raise, with advice for --run.
    """
    try:
        return fetch_model(resolve_model(name)).local_folder
    except HubUnreachable as error:
        raise HubUnreachable(
            f"Expected to download {name}, got no response from the Hub. Download it once where there is a network "
            f"(hf download {name}), or give a run folder as --run."
        ) from error


def base_model(source: ModelSource) -> str | None:
    """The Hub id of the pretrained checkpoint behind a model, which a run folder records; None for a local model."""
    folder = Path(source.name).expanduser()
    if not (folder / "config.json").is_file():
        return source.hub_id
    return _recorded_sources(folder).get("base_model")


def previous_datasets(source: ModelSource) -> list[str | None]:
    """Datasets that a run's weights were trained on, latest first, as Hub ids; None for each that is not public."""
    folder = Path(source.name).expanduser()
    if not (folder / run_folder.METRICS).is_file():
        return []
    sources = _recorded_sources(folder)
    return [sources.get("dataset"), *sources.get("earlier", [])]


def _recorded_sources(folder: Path) -> dict[str, Any]:
    metrics = run_folder.RunFolder(folder).read_json(run_folder.METRICS) or {}
    return metrics.get("sources", {})


def _snapshot(source: ModelSource, weights: bool) -> str:
    """The folder of the Hub's cache that holds the files, downloaded if they are not there yet."""
    if _is_cached(source, weights):
        return snapshot_download(source.hub_id, revision=source.revision, local_files_only=True)
    file_metadata(source.hub_id, "config.json", revision=source.revision)
    log.info("downloading %s", source.hub_id)
    patterns: list[str] = [*CONFIG_FILES]
    if weights:
        patterns += [*WEIGHT_FILES, run_folder.CALIBRATION]
    return snapshot_download(source.hub_id, revision=source.revision, allow_patterns=patterns)


def _is_cached(source: ModelSource, weights: bool) -> bool:
    def has(file: str) -> bool:
        return isinstance(try_to_load_from_cache(source.hub_id, file, revision=source.revision), str)

    return has("config.json") and (not weights or has("model.safetensors") or has("model.safetensors.index.json"))
