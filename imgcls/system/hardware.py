"""What this process runs on: cores, threads, accelerator, precision, and whether the launch is what it believes."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import logging
import os
import sys
from collections.abc import Callable, Iterator

import psutil
import torch

from imgcls.errors import LaunchError
from imgcls.system import cpu
from imgcls.system.cpu import available_cores

log = logging.getLogger(__name__)

# M_TRIM_THRESHOLD, M_MMAP_THRESHOLD (its most; whole photos are larger) and M_ARENA_MAX, as glibc's malloc.h has them.
MALLOC_SETTINGS = ((-1, 2**27), (-3, 2**25), (-8, 1))


def accelerator() -> str | None:
    """Kind of accelerator torch can use ("cuda", "mps", "xpu", ...); None on a CPU."""
    return torch.accelerator.current_accelerator().type if torch.accelerator.is_available() else None


def local_world_size() -> int:
    """Processes of this launch on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def configure_process() -> None:
    """Set up memory and torch's threads; call it before the first tensor operation, for its threads inherit settings.

    On a CPU, up to 128 MB that a step frees stay ours (glibc): the next one takes them again without the 25,000 page
    faults, a quarter of MobileNet's step, that giving them back costs. All threads share one heap, 60 MB less than with
    two.

    Denormal numbers are flushed to zero: random-weight EfficientNet meets them and runs 2.4 to 3.9 times slower
    on a CPU. `accelerate launch` sets OMP_NUM_THREADS=1 whatever the machine; on a CPU that idles all cores but
    one, so the threads are raised again. A value set by hand (no accelerate in sight) is kept.
    """
    torch.set_flush_denormal(True)
    if not gc.get_freeze_count():
        gc.freeze()  # what was imported stays: looking for garbage in it took a third of a second each time
    mallopt = _of_libc("mallopt") if accelerator() is None else None
    if mallopt:
        for setting in MALLOC_SETTINGS:
            mallopt(*setting)
    launched = any(name.startswith("ACCELERATE_") for name in os.environ) or "TORCHELASTIC_RUN_ID" in os.environ
    if accelerator() is None and launched and os.environ.get("OMP_NUM_THREADS") == "1":
        threads = max(1, available_cores() // local_world_size())
        if threads > torch.get_num_threads():
            torch.set_num_threads(threads)
            log.info("threads: %d (the launcher had set 1)", threads)


def training_defaults() -> dict[str, bool]:
    """TrainingArguments that follow from the machine: use_cpu, bf16, fp16.

    use_cpu must be said, or two CPU processes each believe to be alone. bf16 needs compute capability 8:
    `torch.cuda.is_bf16_supported()` is also true where it is emulated, and slow (T4: 7.5). No mixed precision on MPS;
    on a CPU it is tried with the network itself (`acceleration`).
    """
    kind = accelerator()
    if kind is None:
        return {"use_cpu": True}
    if kind != "cuda":
        return {}
    ampere = torch.cuda.get_device_capability()[0] >= 8
    return {"bf16": ampere, "fp16": not ampere}


def default_loader_workers() -> int:
    """Processes that prepare images: none on a CPU or with two cores, where they only take the model's time."""
    mine = available_cores() // local_world_size()
    return 0 if accelerator() is None or mine <= 2 else min(16, mine - 1)


def free_memory(device: torch.device) -> int:
    """Bytes that a device has left; of the machine, where the two share their memory."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


@contextlib.contextmanager
def trimmed_heap(is_wanted: bool = True) -> Iterator[None]:
    """Work before and after which memory that was freed goes back to the system, where that is wanted and glibc's.

    glibc keeps what a training step freed in pieces too small for a whole photo: both would be held at once.
    """
    trim = _of_libc("malloc_trim") if is_wanted else None
    if trim:
        trim(0)
    yield
    if trim:
        trim(0)


def _of_libc(name: str) -> Callable | None:
    """A function of the C library; None where it has none of that name, or is none of Linux."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def check_launch(world_size: int) -> None:
    """Raises LaunchError when the launcher started another number of processes than take part.

    world_size: processes that torch.distributed really joined. Each would train alone and overwrite the others.
    """
    started = int(os.environ.get("WORLD_SIZE", 1))
    if started != world_size:
        raise LaunchError(
            f"Expected {started} processes to train together (WORLD_SIZE), got {world_size}. "
            "On a CPU start them with: torchrun --nproc_per_node 2 scripts/train.py ..."
        )


def shutdown(state) -> None:
    """Wait for the other processes of the launch, and see to it that this one closes its connections when it exits.

    A process that exits while others still write may abort in its network threads. state: accelerate's PartialState.
    """
    if state.num_processes > 1:
        state.wait_for_everyone()
        atexit.register(state.destroy_process_group)


def device_name() -> str:
    """One line for people: the accelerator, or the processor with its threads."""
    kind = accelerator()
    if kind == "cuda":
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return kind or f"{cpu.cpu_name()}, {threads} thread{'' if threads == 1 else 's'}"
