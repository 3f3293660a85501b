"""From a name to a model's files: a local folder, a row of the table, or the Hub, asked with a short time-out."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import errors as hub_errors
from huggingface_hub import get_hf_file_metadata, hf_hub_url, snapshot_download, try_to_load_from_cache

from imgcls import checkpoints
from imgcls.errors import ModelError

log = logging.getLogger(__name__)

HUB_WAIT_S = 5  # a model that is not cached and a Hub that does not answer: said after this, not after 47 s
FILES = ["config.json", "preprocessor_config.json", "model.safetensors", "model*.safetensors*"]


@dataclass(frozen=True)
class Source:
    """Where a model comes from. `folder` holds its files; None for a table row built from random weights."""

    name: str
    checkpoint: checkpoints.Checkpoint | None = None
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


def locate(name: str) -> Source:
    """Find out what `name` means, without network: a local model folder, a table row, or a Hub id.

    Raises ModelError for an unknown short name or a folder without config.json.
    """
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file():
        return Source(name, folder=folder)
    if folder.is_dir() and ("/" in name or name not in checkpoints.CHECKPOINTS):
        raise ModelError(f"Expected a model folder with config.json, got {name} without one. Give a run folder.")
    if name.startswith(("/", "./", "../", "~")):
        raise ModelError(f"Expected a model folder, got {name}, which does not exist. Give a run folder or a name.")
    return Source(name, checkpoints.find(name))


def fetch(source: Source, weights: bool = True) -> Source:
    """The same source with its files in a local folder: as it is, from the cache, or downloaded.

    Raises HubUnreachable within HUB_WAIT_S seconds when the Hub does not answer, ModelError when it says no.
    """
    if source.folder is not None:
        return source
    try:
        if _cached(source, weights):
            path = snapshot_download(source.hub_id, revision=source.revision, local_files_only=True)
        else:
            look_up(source.hub_id, "config.json", revision=source.revision)
            log.info("downloading %s", source.hub_id)
            path = snapshot_download(
                source.hub_id, revision=source.revision, allow_patterns=FILES if weights else FILES[:2]
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
    return Source(source.name, source.checkpoint, Path(path))


def trained(name: str) -> Path:
    """The folder of a model that is asked and not trained: a run folder, a model folder, or a Hub id, downloaded.

    Raises what `locate` and `fetch` raise, with the cure for --run.
    """
    try:
        return fetch(locate(name)).folder
    except HubUnreachable as error:
        raise HubUnreachable(
            f"Expected to download {name}, got no answer from the Hub. Download it once where there is a network "
            f"(hf download {name}), or give a run folder as --run."
        ) from error


def _cached(source: Source, weights: bool) -> bool:
    def has(file: str) -> bool:
        return isinstance(try_to_load_from_cache(source.hub_id, file, revision=source.revision), str)

    return has("config.json") and (not weights or has("model.safetensors") or has("model.safetensors.index.json"))


def look_up(hub_id: str, file: str, *, revision: str = "main", kind: str = "model") -> None:
    """Ask the Hub for a file's metadata. kind: "model" or "dataset".

    Raises what the client raises (HfHubHTTPError when the Hub says no), TimeoutError after HUB_WAIT_S seconds.
    """
    url = hf_hub_url(hub_id, file, repo_type=kind, revision=revision)
    _within(HUB_WAIT_S, lambda: get_hf_file_metadata(url, timeout=HUB_WAIT_S))


def _within(seconds: float, ask: Callable[[], object]) -> None:
    """Run `ask` in a thread and wait at most `seconds`: looking a name up has no time-out of its own."""
    outcome: list[BaseException] = []

    def run() -> None:
        try:
            ask()
        except Exception as error:  # handed to the caller below
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no answer within {seconds} s")
    if outcome:
        raise outcome[0]
