"""What is decided from the machine: threads, precision, loader workers, and launches that are not what they seem."""

import psutil
import pytest
import torch

from imgcls.errors import LaunchError
from imgcls.system import hardware


@pytest.fixture
def pretend(monkeypatch):
    """A machine with so many cores, an accelerator of a kind, and its CUDA capability."""

    def be(cores=8, accelerator=None, capability=(8, 0), **variables):
        monkeypatch.setattr(hardware, "available_cores", lambda: cores)
        monkeypatch.setattr(hardware, "accelerator", lambda: accelerator)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        for name in ("OMP_NUM_THREADS", "TORCHELASTIC_RUN_ID", "LOCAL_WORLD_SIZE", "WORLD_SIZE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return be


@pytest.fixture
def threads(monkeypatch):
    """The number that torch was set to, from one."""
    chosen = [1]
    monkeypatch.setattr(torch, "get_num_threads", lambda: chosen[-1])
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    return chosen


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"OMP_NUM_THREADS": "1", "ACCELERATE_MIXED_PRECISION": "no"}, 8),  # accelerate launch
        ({"OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2"}, 4),  # torchrun
        ({"OMP_NUM_THREADS": "1"}, 1),  # by hand
        ({"OMP_NUM_THREADS": "2", "ACCELERATE_MIXED_PRECISION": "no"}, 1),  # by hand, whatever the launcher
    ],
)
def test_only_a_launcher_s_single_thread_is_raised(pretend, threads, variables, expected):
    pretend(**variables)
    hardware.configure_process()
    assert threads[-1] == expected


def test_an_accelerator_s_host_threads_are_left_alone(pretend, threads):
    pretend(accelerator="cuda", OMP_NUM_THREADS="1", ACCELERATE_MIXED_PRECISION="no")
    hardware.configure_process()
    assert threads == [1]


@pytest.mark.skipif(hardware._of_libc("malloc_trim") is None, reason="the C library is not glibc")
def test_freed_memory_goes_back_to_the_system_where_that_is_wanted():
    def resident() -> int:
        return psutil.Process().memory_info().rss

    for _ in range(2):  # blocks of the second round come from the heap, whose end the last one keeps
        blocks = [b"1" * 1_000_000 for _ in range(200)]
        del blocks[:-1]
    held = resident()
    with hardware.trimmed_heap(is_wanted=False):
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
def test_precision_goes_by_capability(pretend, kind, capability, expected):
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
def test_loader_workers_fit_the_cores(pretend, cores, kind, processes, expected):
    pretend(cores, kind, LOCAL_WORLD_SIZE=str(processes))
    assert hardware.default_loader_workers() == expected


def test_processes_that_do_not_know_of_each_other_are_refused(pretend):
    pretend(WORLD_SIZE="2")
    hardware.check_launch(2)
    with pytest.raises(LaunchError, match=r"Expected 2 processes.*got 1.*torchrun --nproc_per_node 2"):
        hardware.check_launch(1)
