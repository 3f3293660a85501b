"""Calls with a time limit, for a client that has none: huggingface_hub waits minutes, or without end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from huggingface_hub import get_hf_file_metadata, hf_hub_url

T = TypeVar("T")

HUB_WAIT_S = 5  # an unreachable Hub is reported after this time; the client alone takes 47 s


def call_with_timeout(seconds: float, function: Callable[[], T]) -> T:
    """Return or raise what `function` does, or raise TimeoutError when it has not finished after `seconds`.

    `function` runs in a thread of its own, which is abandoned on a timeout: it must be safe to leave half done.
    """
    outcome: list[tuple[T | None, BaseException | None]] = []

    def run() -> None:
        try:
            outcome.append((function(), None))
        except Exception as error:  # raised again in the caller's thread
            outcome.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise TimeoutError(f"no answer within {seconds:g} s")
    result, error = outcome[0]
    if error is not None:
        raise error
    return result


def file_metadata(hub_id: str, file: str, *, revision: str = "main", repo_type: str = "model") -> None:
    """Ask the Hub for the metadata of a file. repo_type: "model" or "dataset".

    Raises what the client raises (HfHubHTTPError when the Hub refuses), TimeoutError after HUB_WAIT_S seconds.
    """
    url = hf_hub_url(hub_id, file, repo_type=repo_type, revision=revision)
    call_with_timeout(HUB_WAIT_S, lambda: get_hf_file_metadata(url, timeout=HUB_WAIT_S))
