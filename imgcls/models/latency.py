"""How long a model takes for one image."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def median_latencies_ms(
    calls: Mapping[str, Callable[[], object]], *, repeats: int, warm_up: int = 2
) -> dict[str, float]:
    """Median duration of each call in milliseconds.

    The calls take turns, so that other load on the machine slows them all alike. Each must wait for its result, such as
    by copying it to the CPU. The first `warm_up` rounds do not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(warm_up + repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: 1e3 * statistics.median(values[warm_up:]) for name, values in seconds.items()}
