"""Steps as CUDA graphs: the same training as without, and no graph where it would not be the same."""

import json
import random
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import TrainingArguments

from imgcls.errors import ModelError
from imgcls.training import cuda_graph
from imgcls.training.cuda_graph import WARM_UP_STEPS, CapturingTrainer

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


class SimulatedStep:
    """`CapturedStep` without a GPU: output and gradients of a call overwrite those of the first."""

    count = 0

    def __init__(self, function, *inputs):
        type(self).count += 1
        self.function, self.inputs = function, [tensor.clone() for tensor in inputs]
        self.parameters = [p for p in NETWORK.parameters() if p.requires_grad]
        before = {name: value.clone() for name, value in NETWORK.state_dict().items()}
        self.output = function(*self.inputs)
        NETWORK.load_state_dict(before)  # capturing computes nothing
        self.gradients = [p.grad for p in self.parameters]

    def __call__(self, *inputs):
        for static, new in zip(self.inputs, inputs, strict=True):
            static.copy_(new)
        for parameter in self.parameters:
            parameter.grad = None
        self.output.copy_(self.function(*self.inputs))
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            gradient.copy_(parameter.grad)
            parameter.grad = None
        return self.output


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
        self.disturb = lambda: None

    def forward(self, pixel_values, labels=None):
        self.disturb()
        return {"logits": self.layers(pixel_values)}


NETWORK = Network()
START = {name: value.clone() for name, value in NETWORK.state_dict().items()}


class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, index):
        return {"pixel_values": torch.tensor([index, index % 3, 1.0]), "labels": index % 2}


def losses(monkeypatch, tmp_path, *, captures=True, disturb=lambda: None, peak=60, **options):
    """Loss of each step of a training, and how many of them were captured."""
    NETWORK.load_state_dict(START)
    NETWORK.disturb = disturb
    SimulatedStep.count = 0
    monkeypatch.setattr(cuda_graph, "CapturedStep", SimulatedStep)
    monkeypatch.setattr(CapturingTrainer, "_may_capture", lambda self, tensors: captures and self.captures)
    answers = {
        "get_sync_debug_mode": 0,
        "memory_allocated": 30,
        "max_memory_allocated": peak,
        "mem_get_info": (70, 100),
    }
    for name, value in (answers | {"reset_peak_memory_stats": None}).items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: None)
    args = TrainingArguments(
        tmp_path, per_device_train_batch_size=4, num_train_epochs=2, logging_steps=1, use_cpu=True, report_to="none",
        save_strategy="no", disable_tqdm=True, seed=1, learning_rate=0.1, dataloader_pin_memory=False, **options,
    )  # fmt: skip

    def loss(outputs, labels, num_items_in_batch=None):
        return torch.nn.functional.cross_entropy(outputs["logits"], labels, reduction="sum") / num_items_in_batch

    trainer = CapturingTrainer(NETWORK, args, train_dataset=Rows(), compute_loss_func=loss)
    trainer.train()
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return logged, {name: value.clone() for name, value in NETWORK.state_dict().items()}, trainer


def test_training_step_from_a_graph_trains_as_an_eager_one(monkeypatch, tmp_path):
    expected, weights, _ = losses(monkeypatch, tmp_path, captures=False)
    assert SimulatedStep.count == 0
    logged, captured, trainer = losses(monkeypatch, tmp_path)
    assert SimulatedStep.count == 1
    assert len(logged) == len(expected) == 20 > WARM_UP_STEPS
    assert logged == expected
    assert all(torch.equal(captured[name], value) for name, value in weights.items())
    assert trainer._step is None  # its memory is free
    assert all(parameter.grad is None for parameter in NETWORK.parameters())


@pytest.mark.filterwarnings("ignore:called a synchronizing")
@pytest.mark.parametrize(
    ("disturb", "reason"),
    [
        (lambda: torch.rand(1), "draws random numbers on the host"),
        (random.random, "draws random numbers on the host"),
        (np.random.random, "draws random numbers on the host"),
        (lambda: warnings.warn("called a synchronizing CUDA operation", stacklevel=1), "synchronises with the GPU"),
    ],
)
def test_training_step_stays_eager_where_a_graph_would_be_wrong(monkeypatch, tmp_path, caplog, disturb, reason):
    caplog.set_level("INFO", logger="imgcls")
    losses(monkeypatch, tmp_path, disturb=disturb)
    assert SimulatedStep.count == 0
    assert caplog.text.count(f"CUDA graph disabled: the training step {reason}") == 1


def test_training_step_stays_eager_where_a_graph_takes_the_memory_of_evaluation(monkeypatch, tmp_path, caplog):
    caplog.set_level("INFO", logger="imgcls")
    losses(monkeypatch, tmp_path, peak=61)  # 30 held, 31 for a step: 92 of 100
    assert SimulatedStep.count == 0
    assert "takes most of the GPU memory" in caplog.text


def test_training_step_captures_a_graph_for_each_batch_shape(monkeypatch, tmp_path):
    class Other(Rows):
        def __len__(self):
            return 42  # the last batch is smaller

    monkeypatch.setattr(sys.modules[__name__], "Rows", Other)
    expected, *_ = losses(monkeypatch, tmp_path, captures=False)
    logged, *_ = losses(monkeypatch, tmp_path)
    assert logged == expected
    assert SimulatedStep.count == 2


@pytest.mark.parametrize(
    "other",
    [
        {"gradient_checkpointing": True},
        {"torch_empty_cache_steps": 1},
        {"fp16": True},
        {"gradient_accumulation_steps": 2},
        {"world_size": 2},
        {"n_gpu": 2},
        {"device": "cpu"},
    ],
)
def test_may_capture_only_plain_training_on_one_cuda_device(other):
    class Bare(CapturingTrainer):
        def __init__(self, **other):
            usual = dict.fromkeys(("fp16", "gradient_checkpointing", "torch_empty_cache_steps"), False)
            usual |= {"world_size": 1, "n_gpu": 1, "gradient_accumulation_steps": 1, "device": "cuda"}
            self.args = SimpleNamespace(**{**usual, **other})
            self.args.device = SimpleNamespace(type=self.args.device)
            self.model = NETWORK
            self.is_fsdp_enabled = self.is_deepspeed_enabled = False

    assert Bare()._may_capture([])
    assert not Bare(**other)._may_capture([])
    assert not Bare()._may_capture([None])
    assert not Bare()._may_capture([torch.zeros(1)])  # on the host


@pytest.mark.parametrize(
    ("raised", "kind", "reason"),
    [
        (
            RuntimeError("CUDA error: operation not permitted\nmore"),
            ModelError,
            "operation not permitted. Give --cuda_gr",
        ),
        (torch.OutOfMemoryError("CUDA out of memory."), torch.OutOfMemoryError, "out of memory"),
    ],
)
def test_capture_raises_one_line_for_a_step_that_no_graph_can_hold(monkeypatch, tmp_path, raised, kind, reason):
    def fail(self, function, *inputs):
        raise raised

    monkeypatch.setattr(SimulatedStep, "__init__", fail)
    with pytest.raises(kind, match=reason):
        losses(monkeypatch, tmp_path)


@cuda
@pytest.mark.parametrize("more", [(), ("--augment", "none"), ("--ema", "0.9")])
def test_cuda_graph_trains_as_eager_steps_do(train, resnet, shapes, tmp_path, more):
    histories = []
    for choice in ("auto", "off"):
        run = tmp_path / choice
        done = train(
            "--model", resnet, "--data", shapes, "--tune", "full", "--output_dir", run, "--epochs", 4,
            "--batch_size", 8, "--cuda_graph", choice, "--compile", "off", "--fresh", *more,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "CUDA graph disabled" not in done.stderr
        assert ("onto the GPU" in done.stderr) == (more != ("--augment", "none"))
        lines = (run / "history.jsonl").read_text().splitlines()
        entries = map(json.loads, lines)
        histories.append([entry["eval_loss"] for entry in entries if "eval_loss" in entry])
    assert histories[0] == pytest.approx(histories[1], rel=0.02)
