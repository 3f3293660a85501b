"""How many cores there are; apart from `machine`, which needs torch."""

import os


def cores() -> int:
    """Cores that this process may use (containers and `taskset` grant fewer than the machine has)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
