"""The accelerator, and how a process uses the machine: precision, threads, memory, processes of a launch."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import logging
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import psutil
import torch

from imgcls.errors import LaunchError
from imgcls.system import cpu

if TYPE_CHECKING:
    from accelerate import PartialState

log = logging.getLogger(__name__)

# M_TRIM_THRESHOLD, M_MMAP_THRESHOLD (its maximum; whole photos are larger) and M_ARENA_MAX of glibc's malloc.h.
MALLOC_SETTINGS = ((-1, 2**27), (-3, 2**25), (-8, 1))


def accelerator() -> str | None:
    """Type of the accelerator that torch can use ("cuda", "mps", "xpu", ...); None on a CPU."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return device.type if device else None


def local_world_size() -> int:
    """Number of processes of this launch on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def configure_process() -> None:
    """Configure memory and torch's threads. Call it before the first tensor operation: threads inherit the settings.

    On a CPU, up to 128 MB that a step frees stay with the process (glibc): the next step uses them again without the
    25,000 page faults, a quarter of MobileNet's step, that returning them to the system costs. All threads use one
    heap, which takes 60 MB less than two.

    Denormal numbers are flushed to zero: EfficientNet with random weights produces them and runs 2.4 to 3.9 times
    slower on a CPU. `accelerate launch` and torchrun set OMP_NUM_THREADS=1 on every machine, which leaves all CPU cores
    but one idle, so the number of threads is raised again. A value that the user set without a launcher is kept.
    """
    torch.set_flush_denormal(True)
    if not gc.get_freeze_count():
        gc.freeze()  # imported objects stay: each search for garbage among them took a third of a second
    is_on_cpu = accelerator() is None
    mallopt = _libc_function("mallopt") if is_on_cpu else None
    if mallopt:
        for parameter, value in MALLOC_SETTINGS:
            mallopt(parameter, value)
    is_launched = any(name.startswith("ACCELERATE_") for name in os.environ) or "TORCHELASTIC_RUN_ID" in os.environ
    if is_on_cpu and is_launched and os.environ.get("OMP_NUM_THREADS") == "1":
        threads = max(1, cpu.available_cores() // local_world_size())
        if threads > torch.get_num_threads():
            torch.set_num_threads(threads)
            log.info("threads: %d (the launcher had set 1)", threads)


def training_defaults() -> dict[str, bool]:
    """TrainingArguments that follow from the machine: use_cpu, bf16, fp16.

    use_cpu must be set, or each of two CPU processes trains alone. bf16 needs compute capability 8:
    `torch.cuda.is_bf16_supported()` is also true where it is emulated, and slow (T4: 7.5). No mixed precision on MPS;
    on a CPU it is measured with the network itself (see `imgcls.training.acceleration`).
    """
    kind = accelerator()
    if kind is None:
        return {"use_cpu": True}
    if kind != "cuda":
        return {}
    has_bf16 = torch.cuda.get_device_capability()[0] >= 8
    return {"bf16": has_bf16, "fp16": not has_bf16}


def default_loader_workers() -> int:
    """Number of DataLoader workers: 0 on a CPU or with two cores, where they would take time from the model."""
    cores = cpu.available_cores() // local_world_size()
    return 0 if accelerator() is None or cores <= 2 else min(16, cores - 1)


def free_memory(device: torch.device) -> int:
    """Free bytes of a device's memory; of the machine's if the device shares it."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


@contextlib.contextmanager
def trimmed_heap(is_enabled: bool = True) -> Iterator[None]:
    """Return freed memory to the system before and after the block (glibc only).

    glibc keeps what a training step freed in pieces too small for a photo: the process would hold both at once.
    """
    trim = _libc_function("malloc_trim") if is_enabled else None
    if trim:
        trim(0)
    yield
    if trim:
        trim(0)


def _libc_function(name: str) -> Callable[..., int] | None:
    """A function of the C library; None if it has no such function, or on another system than Linux."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def check_launch(world_size: int) -> None:
    """Raise LaunchError if the launcher started another number of processes than joined.

    world_size: processes that joined torch.distributed. Otherwise each would train alone and overwrite the others.
    """
    started = int(os.environ.get("WORLD_SIZE", 1))
    if started != world_size:
        raise LaunchError(
            f"Expected {started} processes to train together (WORLD_SIZE), got {world_size}. "
            "On a CPU start them with: torchrun --nproc_per_node 2 scripts/train.py ..."
        )


def shutdown(state: PartialState) -> None:
    """Wait for the other processes of the launch, and close this one's connections when it exits.

    A process that exits while others still write may abort in its network threads.
    """
    if state.num_processes > 1:
        state.wait_for_everyone()
        atexit.register(state.destroy_process_group)


def device_name() -> str:
    """Name of the accelerator, or of the processor with its number of threads."""
    kind = accelerator()
    if kind == "cuda":
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return kind or f"{cpu.cpu_name()}, {threads} thread{'' if threads == 1 else 's'}"
