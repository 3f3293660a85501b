"""Which processor this is, and how many of its cores are ours; apart from `machine`, which needs torch."""

import os
import platform
from pathlib import Path


def cores() -> int:
    """Cores that this process may use (containers and `taskset` grant fewer than the machine has)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def name() -> str:
    """The processor's name for people, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
