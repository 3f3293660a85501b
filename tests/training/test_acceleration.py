"""bf16 and torch.compile are tried on a step of the run, used where they are faster, and logged."""

import logging
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from imgcls.errors import ModelError
from imgcls.models.step_timing import StepTime
from imgcls.storage.run_folder import CHECKPOINTS, PRECISION, RunFolder
from imgcls.system import cpu
from imgcls.training import acceleration

SLOW = StepTime(4, 1.0, 0.3, 0.5, 0.6)


class Trainer:
    """The parts of a trainer that `acceleration` uses; its step takes `faster` seconds in bf16 or compiled, or raises.

    It is its own dry run. warm: seconds of a step in float32 that is not the first.
    """

    def __init__(self, faster=0.5, device="cpu", tries=True, can_compile=True, processes=1):
        self.args = SimpleNamespace(
            device=torch.device(device), tries_bf16=tries, should_save=True, world_size=processes
        )
        self.faster, self.can_compile, self.trains_on_images = faster, can_compile, True
        self.warm = 1.0
        self.cpu_autocast, self.is_compiled, self.timed = None, False, []
        self.dry_run = self

    def time_step(self, whole_batch=False):
        self.timed.append(whole_batch)
        if isinstance(self.faster, Exception) and self.is_compiled:
            raise self.faster
        return StepTime(4, self.faster if self.cpu_autocast or self.is_compiled else self.warm, 0.1)

    def compile(self):
        self.is_compiled = True

    def undo_compile(self):
        self.is_compiled = False


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path)


@pytest.fixture(autouse=True)
def capable_machine(monkeypatch, caplog):
    """A processor with bf16 and a compiler."""
    monkeypatch.setattr(cpu, "has_bf16", lambda: True)
    monkeypatch.setattr(acceleration, "_has_compiler", lambda: True)
    caplog.set_level(logging.INFO)


@pytest.mark.parametrize(
    ("faster", "is_used", "line"),
    [
        (0.5, True, "using bf16 (2.00 times as fast as float32 on this processor"),
        (0.95, False, "using float32 (bf16 is only 1.05 times as fast on this processor)"),
        (1.8, False, "using float32 (bf16 is slower on this processor: 0.56 times as fast)"),
    ],
)
def test_use_bf16_if_faster_decides_once_and_stores_the_decision(run, caplog, faster, is_used, line):
    trainer = Trainer(faster)
    step_time = acceleration.use_bf16_if_faster(trainer, SLOW, 100, run)
    assert trainer.cpu_autocast == (torch.bfloat16 if is_used else None)
    assert step_time == (replace(SLOW, train_s=faster, evaluation_s=0.1) if is_used else SLOW)
    assert line in caplog.text
    assert run.read_json(PRECISION) == {"bf16": is_used}
    resumed = Trainer(1.8 if is_used else 0.5)  # whatever it would measure now
    acceleration.use_bf16_if_faster(resumed, SLOW, 1, run)
    assert resumed.cpu_autocast == trainer.cpu_autocast


def test_use_bf16_if_faster_measures_a_clear_result_twice(run):
    trainer = Trainer()
    steps = iter([2.0, 1.0, 0.5, 1.0])
    trainer.time_step = lambda: StepTime(4, next(steps), 0.1)
    assert acceleration.use_bf16_if_faster(trainer, SLOW, 100, run).train_s == 0.5
    assert trainer.cpu_autocast == torch.bfloat16


def test_use_bf16_if_faster_repeats_a_close_result(run):
    trainer = Trainer(faster=0.6)
    steps = iter([0.9, 1.0, 0.6, 1.0])  # bf16's first was disturbed: 1.1 times float32's speed; the second decides
    trainer.time_step = lambda: StepTime(4, next(steps), 0.1)
    assert acceleration.use_bf16_if_faster(trainer, SLOW, 100, run).train_s == 0.6
    assert trainer.cpu_autocast == torch.bfloat16


def test_use_bf16_if_faster_ignores_a_slow_first_step_in_float32(run):
    trainer = Trainer(faster=0.9)
    trainer.warm = 0.8
    assert acceleration.use_bf16_if_faster(trainer, SLOW, 100, run) == replace(SLOW, train_s=0.8, evaluation_s=0.1)
    assert trainer.cpu_autocast is None


@pytest.mark.parametrize("other", [{"device": "cuda"}, {"tries": False}, {}])
def test_use_bf16_if_faster_does_not_try_on_accelerators_by_decision_or_for_short_runs(run, other):
    trainer = Trainer(**other)
    assert acceleration.use_bf16_if_faster(trainer, SLOW, 100 if other else 5, run) == SLOW
    assert trainer.cpu_autocast is None
    assert trainer.timed == []
    assert run.read_json(PRECISION) is None


def test_use_bf16_if_faster_resumes_in_float32(run):
    trainer = Trainer()
    checkpoint = run / CHECKPOINTS / "checkpoint-3"
    checkpoint.mkdir(parents=True)
    (checkpoint / "trainer_state.json").write_text("{}")
    assert acceleration.use_bf16_if_faster(trainer, SLOW, 1000, run) == SLOW
    assert not trainer.timed


def test_use_bf16_if_faster_does_not_try_emulated_bf16(run, monkeypatch):
    monkeypatch.setattr(cpu, "has_bf16", lambda: False)
    trainer = Trainer()
    assert acceleration.use_bf16_if_faster(trainer, SLOW, 100, run) == SLOW
    assert trainer.timed == []


@pytest.mark.parametrize(
    ("choice", "faster", "seconds", "is_used"),
    [("auto", 0.5, 3600, True), ("auto", 0.99, 3600, False), ("on", 0.99, 5, True)],
)
def test_compile_if_faster_compiles_where_it_gains_or_is_on(caplog, choice, faster, seconds, is_used):
    trainer = Trainer(faster)
    step_time = acceleration.compile_if_faster(trainer, choice, SLOW, seconds)
    assert trainer.is_compiled == is_used
    assert trainer.timed == [True, True]  # whole batches: another size would be compiled again
    assert step_time.train_s == (faster if is_used else 1.0)
    assert f"{'using' if is_used else 'not using'} torch.compile: {1 / faster:.2f} times the speed" in caplog.text


@pytest.mark.parametrize(
    ("choice", "seconds", "trainer"),
    [
        ("off", 3600, Trainer()),
        ("auto", 100, Trainer()),
        ("auto", 3600, Trainer(can_compile=False)),
        ("auto", 3600, Trainer(processes=2)),
    ],
)
def test_compile_if_faster_does_not_try_in_vain(choice, seconds, trainer):
    assert acceleration.compile_if_faster(trainer, choice, SLOW, seconds) == SLOW
    assert trainer.timed == []


def test_compile_if_faster_skips_a_network_that_cannot_be_compiled_unless_it_is_on(caplog):
    trainer = Trainer(RuntimeError("no such compiler"))
    assert acceleration.compile_if_faster(trainer, "auto", SLOW, 3600) == replace(SLOW, evaluation_s=0.1)
    assert not trainer.is_compiled
    assert "not using torch.compile, which failed: no such compiler" in caplog.text
    with pytest.raises(ModelError, match="--compile off"):
        acceleration.compile_if_faster(Trainer(RuntimeError("no such compiler")), "on", SLOW, 3600)
    with pytest.raises(torch.OutOfMemoryError):  # for which the batch is halved
        acceleration.compile_if_faster(Trainer(torch.OutOfMemoryError("CUDA out of memory")), "on", SLOW, 3600)
