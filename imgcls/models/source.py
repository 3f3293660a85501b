"""From a name to a model's files: a local folder, a row of the table, or the Hub, asked with a short time-out."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import errors as hub_errors
from huggingface_hub import snapshot_download, try_to_load_from_cache

from imgcls.config.model_options import ModelOptions
from imgcls.errors import ModelError
from imgcls.models import registry
from imgcls.storage import run_folder
from imgcls.system.network import file_metadata

log = logging.getLogger(__name__)

FILES = ["config.json", "preprocessor_config.json", "model.safetensors", "model*.safetensors*"]
MORE_FILES = [run_folder.CALIBRATION]  # what models of ours bring along


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from. `folder` holds its files; None for a table row built from random weights."""

    name: str
    checkpoint: registry.Checkpoint | None = None
    folder: Path | None = None

    @property
    def hub_id(self) -> str:
        return self.checkpoint.hub_id if self.checkpoint else self.name

    @property
    def short_name(self) -> str:
        """The name as part of a folder's name."""
        return self.checkpoint.name if self.checkpoint else Path(self.name).name

    @property
    def revision(self) -> str:
        return self.checkpoint.revision if self.checkpoint else "main"


class HubUnreachable(ModelError):
    """The Hub does not answer and the checkpoint is not cached."""


def resolve_model(name: str) -> ModelSource:
    """Find out what `name` means, without network: a local model folder, a table row, or a Hub id.

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
    """The same source with its files in a local folder: as it is, from the cache, or downloaded.

    Raises HubUnreachable within HUB_WAIT_S seconds when the Hub does not answer, ModelError when it says no.
    """
    if source.folder is not None:
        return source
    try:
        if _cached(source, weights):
            path = snapshot_download(source.hub_id, revision=source.revision, local_files_only=True)
        else:
            file_metadata(source.hub_id, "config.json", revision=source.revision)
            log.info("downloading %s", source.hub_id)
            path = snapshot_download(
                source.hub_id, revision=source.revision, allow_patterns=[*FILES, *MORE_FILES] if weights else FILES[:2]
            )
    except (hub_errors.RepositoryNotFoundError, hub_errors.RevisionNotFoundError) as error:
        raise ModelError(
            f"Expected a model on the Hub, got {source.hub_id}, which it does not know (or which is private). "
            "Check the name; for a private model log in with: hf auth login"
        ) from error
    except hub_errors.EntryNotFoundError as error:
        raise ModelError(f"Expected config.json in {source.hub_id}, got none. It is no transformers model.") from error
    except Exception as error:  # httpx errors, OSError, RuntimeError, TimeoutError: the client has no common class
        raise HubUnreachable(
            f"Expected to download {source.hub_id}, got no answer from the Hub ({type(error).__name__}). "
            f"Three ways on: download it once where there is a network (hf download {source.hub_id}), "
            "give a local model folder as --model, or start from random weights with --from_scratch."
        ) from error
    return ModelSource(source.name, source.checkpoint, Path(path))


def fetch_for_training(source: ModelSource, wanted: ModelOptions, is_demo: bool) -> ModelSource:
    """A training's start: the files that it needs. Without a Hub the demo alone goes on, from random weights."""
    if wanted.from_scratch and source.checkpoint:
        return source
    try:
        return fetch_model(source, weights=not wanted.from_scratch)
    except HubUnreachable as error:
        if not is_demo:
            raise
        log.warning("%s\nThe demo goes on by itself: it starts from RANDOM WEIGHTS.", error)
        wanted.from_scratch = True
        return source


def fetch_trained_model(name: str) -> Path:
    """The folder of a model that is asked and not trained: a run folder, a model folder, or a Hub id, downloaded.

    Raises what `resolve_model` and `fetch_model` raise, with the cure for --run.
    """
    try:
        return fetch_model(resolve_model(name)).folder
    except HubUnreachable as error:
        raise HubUnreachable(
            f"Expected to download {name}, got no answer from the Hub. Download it once where there is a network "
            f"(hf download {name}), or give a run folder as --run."
        ) from error


def base_model(source: ModelSource) -> str | None:
    """The Hub id of the checkpoint that a model goes back to; None for one that never was there.

    A run folder says where it comes from itself.
    """
    if not (Path(source.name).expanduser() / "config.json").is_file():
        return source.hub_id
    metrics = run_folder.RunFolder(source.name).read_json(run_folder.METRICS) or {}
    return metrics.get("sources", {}).get("base_model")


def previous_datasets(source: ModelSource) -> list[str | None]:
    """Data sets of the trainings that a run folder's weights went through, the last first; None where not public."""
    if not (Path(source.name).expanduser() / run_folder.METRICS).is_file():
        return []
    sources = run_folder.RunFolder(Path(source.name).expanduser()).read_json(run_folder.METRICS).get("sources", {})
    return [sources.get("dataset"), *sources.get("earlier", [])]


def _cached(source: ModelSource, weights: bool) -> bool:
    def has(file: str) -> bool:
        return isinstance(try_to_load_from_cache(source.hub_id, file, revision=source.revision), str)

    return has("config.json") and (not weights or has("model.safetensors") or has("model.safetensors.index.json"))
