"""Which processor this is, and how many of its cores are ours; apart from `hardware`, which needs torch."""

import os
import platform
import re
from pathlib import Path

BF16_MIN_SPEEDUP = 1.15  # of bf16 over float32, from which a CPU uses it: less is measurement noise


def available_cores() -> int:
    """Cores that this process may use (containers and `taskset` grant fewer than the machine has)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_bf16() -> bool:
    """Whether the processor has instructions for bfloat16, as far as the system tells; without them it is emulated."""
    try:
        return re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", Path("/proc/cpuinfo").read_text()) is not None
    except OSError:
        return False


def cpu_name() -> str:
    """The processor's name for people, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
