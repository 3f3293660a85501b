"""The processor: its name, bfloat16 support and the cores available to this process. Does not import torch."""

import os
import platform
import re
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")  # of Linux only
BF16_MIN_SPEEDUP = 1.15  # over float32, from which a CPU uses bf16: less is measurement noise


def available_cores() -> int:
    """Cores that this process may use (containers and `taskset` grant fewer than the machine has)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_bf16() -> bool:
    """Whether the processor has bfloat16 instructions, False if unknown; without them bfloat16 is emulated."""
    try:
        return re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", CPUINFO.read_text()) is not None
    except OSError:
        return False


def cpu_name() -> str:
    """The processor's model name, or its architecture where the system does not report the name."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
