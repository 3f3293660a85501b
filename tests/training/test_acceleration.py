"""bf16 and torch.compile are tried on the run's own step, kept where they are faster, and said in words."""

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
    """What `acceleration` asks of a trainer; its step takes `faster` seconds in bf16 or compiled, or raises."""

    def __init__(self, faster=0.5, device="cpu", tries=True, can_compile=True, processes=1):
        self.args = SimpleNamespace(
            device=torch.device(device), tries_bf16=tries, should_save=True, world_size=processes
        )
        self.faster, self.can_compile, self.sees_images = faster, can_compile, True
        self.warm = 1.0  # seconds of a step in float32 that is not the first
        self.lower, self.is_compiled, self.rehearsed = None, False, []

    def rehearse(self, whole=False):
        self.rehearsed.append(whole)
        if isinstance(self.faster, Exception) and self.is_compiled:
            raise self.faster
        return StepTime(4, self.faster if self.lower or self.is_compiled else self.warm, 0.1)

    def compile(self):
        self.is_compiled = True

    def drop_compiled(self):
        self.is_compiled = False


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path)


@pytest.fixture(autouse=True)
def able(monkeypatch, caplog):
    """A processor with bf16 and a compiler."""
    monkeypatch.setattr(cpu, "has_bf16", lambda: True)
    monkeypatch.setattr(acceleration, "_has_compiler", lambda: True)
    caplog.set_level(logging.INFO)


@pytest.mark.parametrize(("faster", "taken"), [(0.5, True), (0.95, False), (1.8, False)])
def test_bf16_is_taken_where_it_is_clearly_faster_and_remembered(run, caplog, faster, taken):
    trainer = Trainer(faster)
    pace = acceleration.use_bf16_if_faster(trainer, SLOW, 100, run)
    assert trainer.lower == (torch.bfloat16 if taken else None)
    assert pace == (replace(SLOW, train_s=faster, evaluation_s=0.1) if taken else SLOW)
    assert ("bf16: taken" if taken else "bf16: left out") in caplog.text
    assert run.read_json(PRECISION) == {"bf16": taken}
    resumed = Trainer(1.8 if taken else 0.5)  # whatever it would measure now
    acceleration.use_bf16_if_faster(resumed, SLOW, 1, run)
    assert resumed.lower == trainer.lower


def test_one_disturbed_step_does_not_decide_however_clear_it_looks(run):
    trainer = Trainer()
    steps = iter([2.0, 1.0, 0.5, 1.0])
    trainer.rehearse = lambda: StepTime(4, next(steps), 0.1)
    assert acceleration.use_bf16_if_faster(trainer, SLOW, 100, run).train_s == 0.5
    assert trainer.lower == torch.bfloat16


def test_an_unclear_trial_is_repeated_so_that_a_disturbed_step_does_not_decide(run):
    trainer = Trainer(faster=0.6)
    steps = iter([0.9, 1.0, 0.6, 1.0])  # bf16's first was disturbed: 1.1 times float32's speed, the second tells
    trainer.rehearse = lambda: StepTime(4, next(steps), 0.1)
    assert acceleration.use_bf16_if_faster(trainer, SLOW, 100, run).train_s == 0.6
    assert trainer.lower == torch.bfloat16


def test_a_slow_first_step_in_float32_does_not_speak_for_bf16(run):
    trainer = Trainer(faster=0.9)
    trainer.warm = 0.8
    assert acceleration.use_bf16_if_faster(trainer, SLOW, 100, run) == replace(SLOW, train_s=0.8, evaluation_s=0.1)
    assert trainer.lower is None


@pytest.mark.parametrize("other", [{"device": "cuda"}, {"tries": False}, {}])
def test_bf16_is_not_tried_on_accelerators_by_decision_or_for_seconds(run, other):
    trainer = Trainer(**other)
    assert acceleration.use_bf16_if_faster(trainer, SLOW, 100 if other else 5, run) == SLOW
    assert trainer.lower is None
    assert trainer.rehearsed == []
    assert run.read_json(PRECISION) is None


def test_a_run_that_went_on_in_float32_keeps_to_it(run):
    trainer = Trainer()
    checkpoint = run / CHECKPOINTS / "checkpoint-3"
    checkpoint.mkdir(parents=True)
    (checkpoint / "trainer_state.json").write_text("{}")
    assert acceleration.use_bf16_if_faster(trainer, SLOW, 1000, run) == SLOW
    assert not trainer.rehearsed


def test_bf16_is_not_tried_where_it_is_emulated(run, monkeypatch):
    monkeypatch.setattr(cpu, "has_bf16", lambda: False)
    trainer = Trainer()
    assert acceleration.use_bf16_if_faster(trainer, SLOW, 100, run) == SLOW
    assert trainer.rehearsed == []


@pytest.mark.parametrize(
    ("wanted", "faster", "seconds", "kept"),
    [("auto", 0.5, 3600, True), ("auto", 0.99, 3600, False), ("on", 0.99, 5, True)],
)
def test_a_compiled_network_is_kept_where_it_gains_or_is_wanted(caplog, wanted, faster, seconds, kept):
    trainer = Trainer(faster)
    pace = acceleration.compile_if_faster(trainer, wanted, SLOW, seconds)
    assert trainer.is_compiled == kept
    assert trainer.rehearsed == [True, True]  # whole batches: another size would be compiled again
    assert pace.train_s == (faster if kept else 1.0)
    assert ("compile: kept" if kept else "compile: left out") in caplog.text


@pytest.mark.parametrize(
    ("wanted", "seconds", "trainer"),
    [
        ("off", 3600, Trainer()),
        ("auto", 100, Trainer()),
        ("auto", 3600, Trainer(can_compile=False)),
        ("auto", 3600, Trainer(processes=2)),
    ],
)
def test_nothing_is_compiled_in_vain(wanted, seconds, trainer):
    assert acceleration.compile_if_faster(trainer, wanted, SLOW, seconds) == SLOW
    assert trainer.rehearsed == []


def test_a_network_that_cannot_be_compiled_trains_as_it_is_unless_it_was_wanted(caplog):
    trainer = Trainer(RuntimeError("no such compiler"))
    assert acceleration.compile_if_faster(trainer, "auto", SLOW, 3600) == replace(SLOW, evaluation_s=0.1)
    assert not trainer.is_compiled
    assert "compile: left out, since torch.compile failed: no such compiler" in caplog.text
    with pytest.raises(ModelError, match="--compile off"):
        acceleration.compile_if_faster(Trainer(RuntimeError("no such compiler")), "on", SLOW, 3600)
    with pytest.raises(torch.OutOfMemoryError):  # for which the batch is halved
        acceleration.compile_if_faster(Trainer(torch.OutOfMemoryError("CUDA out of memory")), "on", SLOW, 3600)
