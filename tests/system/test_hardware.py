"""What follows from the machine: threads, precision, loader workers; launches of processes that do not join."""

import psutil
import pytest
import torch

from imgcls.errors import LaunchError
from imgcls.system import hardware


@pytest.fixture
def pretend(monkeypatch):
    """A machine with this number of cores, this kind of accelerator and CUDA capability, and environment variables."""

    def set_up(cores=8, accelerator=None, capability=(8, 0), **variables):
        monkeypatch.setattr(hardware.cpu, "available_cores", lambda: cores)
        monkeypatch.setattr(hardware, "accelerator", lambda: accelerator)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        for name in ("OMP_NUM_THREADS", "TORCHELASTIC_RUN_ID", "LOCAL_WORLD_SIZE", "WORLD_SIZE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_up


@pytest.fixture
def threads(monkeypatch):
    """The numbers of threads that torch was set to; the first is one."""
    numbers = [1]
    monkeypatch.setattr(torch, "get_num_threads", lambda: numbers[-1])
    monkeypatch.setattr(torch, "set_num_threads", numbers.append)
    return numbers


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"OMP_NUM_THREADS": "1", "ACCELERATE_MIXED_PRECISION": "no"}, 8),  # accelerate launch
        ({"OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2"}, 4),  # torchrun
        ({"OMP_NUM_THREADS": "1"}, 1),  # by hand
        ({"OMP_NUM_THREADS": "2", "ACCELERATE_MIXED_PRECISION": "no"}, 1),  # by hand, with a launcher
    ],
)
def test_configure_process_raises_only_a_launcher_s_single_thread(pretend, threads, variables, expected):
    pretend(**variables)
    hardware.configure_process()
    assert threads[-1] == expected


def test_configure_process_leaves_an_accelerator_s_host_threads(pretend, threads):
    pretend(accelerator="cuda", OMP_NUM_THREADS="1", ACCELERATE_MIXED_PRECISION="no")
    hardware.configure_process()
    assert threads == [1]


@pytest.mark.skipif(hardware._libc_function("malloc_trim") is None, reason="the C library is not glibc")
def test_trimmed_heap_returns_freed_memory():
    def resident() -> int:
        return psutil.Process().memory_info().rss

    for _ in range(2):  # blocks of the second round come from the heap, whose end the last one keeps
        blocks = [b"1" * 1_000_000 for _ in range(200)]
        del blocks[:-1]
    held = resident()
    with hardware.trimmed_heap(is_enabled=False):
        assert resident() > held - 50e6
    with hardware.trimmed_heap():
        assert resident() < held - 150e6


@pytest.mark.parametrize(
    ("kind", "capability", "expected"),
    [
        (None, None, {"use_cpu": True}),
        ("mps", None, {}),
        ("cuda", (7, 5), {"bf16": False, "fp16": True}),  # T4: bf16 would be emulated
        ("cuda", (8, 0), {"bf16": True, "fp16": False}),
        ("cuda", (9, 0), {"bf16": True, "fp16": False}),
    ],
)
def test_training_defaults_follow_the_capability(pretend, kind, capability, expected):
    pretend(accelerator=kind, capability=capability)
    assert hardware.training_defaults() == expected


@pytest.mark.parametrize(
    ("cores", "kind", "processes", "expected"),
    [
        (8, None, 1, 0),
        (2, "cuda", 1, 0),
        (4, "cuda", 1, 3),
        (16, "cuda", 1, 15),
        (16, "cuda", 8, 0),
        (32, "cuda", 8, 3),
    ],
)
def test_default_loader_workers_fit_the_cores(pretend, cores, kind, processes, expected):
    pretend(cores, kind, LOCAL_WORLD_SIZE=str(processes))
    assert hardware.default_loader_workers() == expected


def test_check_launch_refuses_processes_that_did_not_join(pretend):
    pretend(WORLD_SIZE="2")
    hardware.check_launch(2)
    with pytest.raises(LaunchError, match=r"Expected 2 processes.*got 1.*torchrun --nproc_per_node 2"):
        hardware.check_launch(1)
