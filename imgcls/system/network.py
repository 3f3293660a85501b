"""Calls with a time limit: without one, huggingface_hub's client may wait for minutes or forever."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from huggingface_hub import get_hf_file_metadata, hf_hub_url

T = TypeVar("T")

HUB_WAIT_S = 5  # an unreachable Hub is reported after this time; the client alone takes 47 s


def call_with_timeout(seconds: float, function: Callable[[], T]) -> T:
    """Return or raise what `function` does, or raise TimeoutError if it has not finished after `seconds`.

    `function` runs in a daemon thread, which is abandoned on a timeout: it must be safe to stop it halfway.
    """
    results: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(function())
        except Exception as error:  # raised in the caller's thread below
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return results[0]


def file_metadata(hub_id: str, file: str, *, revision: str = "main", repo_type: str = "model") -> None:
    """Request the metadata of a file from the Hub. repo_type: "model" or "dataset".

    Raises what the client raises (HfHubHTTPError if the Hub refuses), TimeoutError after HUB_WAIT_S seconds.
    """
    url = hf_hub_url(hub_id, file, repo_type=repo_type, revision=revision)
    call_with_timeout(HUB_WAIT_S, lambda: get_hf_file_metadata(url, timeout=HUB_WAIT_S))
