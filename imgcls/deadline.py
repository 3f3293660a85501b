"""A limit in seconds for a call that has none of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def within(seconds: float, ask: Callable[[], T]) -> T:
    """What `ask` returns or raises; TimeoutError when it has done neither after so many seconds.

    It runs in a thread of its own, which is left behind when time is up: ask only what may be left half done.
    """
    outcome: list[tuple[T | None, BaseException | None]] = []

    def run() -> None:
        try:
            outcome.append((ask(), None))
        except Exception as error:  # handed to the caller below
            outcome.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise TimeoutError(f"no answer within {seconds:g} s")
    found, error = outcome[0]
    if error is not None:
        raise error
    return found
