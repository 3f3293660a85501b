"""Steps as CUDA graphs: the same training as without, and no graph where it would not be the same."""

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
from imgcls.training.cuda_graph import WARM_STEPS, CapturingTrainer

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


class Repeated:
    """`CapturedStep` without an accelerator: answer and gradients of a call are written where those of the first
    lie."""

    made = 0

    def __init__(self, function, *given):
        type(self).made += 1
        self.function, self.given = function, [tensor.clone() for tensor in given]
        self.parameters = [p for p in NETWORK.parameters() if p.requires_grad]
        before = {name: value.clone() for name, value in NETWORK.state_dict().items()}
        self.answer = function(*self.given)
        NETWORK.load_state_dict(before)  # capturing computes nothing
        self.gradients = [p.grad for p in self.parameters]

    def __call__(self, *given):
        for mine, new in zip(self.given, given, strict=True):
            mine.copy_(new)
        for parameter in self.parameters:
            parameter.grad = None
        self.answer.copy_(self.function(*self.given))
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            gradient.copy_(parameter.grad)
            parameter.grad = None
        return self.answer


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


def losses(monkeypatch, tmp_path, *, may=True, disturb=lambda: None, peak=60, **options):
    """Loss of each step of a training, and how many of them were captured."""
    NETWORK.load_state_dict(START)
    NETWORK.disturb = disturb
    Repeated.made = 0
    monkeypatch.setattr(cuda_graph, "CapturedStep", Repeated)
    monkeypatch.setattr(CapturingTrainer, "CapturingTrainer", lambda self, given: may and self.captures)
    told = {"get_sync_debug_mode": 0, "memory_allocated": 30, "max_memory_allocated": peak, "mem_get_info": (70, 100)}
    for name, value in (told | {"reset_peak_memory_stats": None}).items():
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
    found = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return found, {name: value.clone() for name, value in NETWORK.state_dict().items()}, trainer


def test_captured_steps_train_as_others_do(monkeypatch, tmp_path):
    expected, weights, _ = losses(monkeypatch, tmp_path, may=False)
    assert Repeated.made == 0
    found, captured, trainer = losses(monkeypatch, tmp_path)
    assert Repeated.made == 1
    assert len(found) == len(expected) == 20 > WARM_STEPS
    assert found == expected
    assert all(torch.equal(captured[name], value) for name, value in weights.items())
    assert trainer._step is None  # its memory is free
    assert all(parameter.grad is None for parameter in NETWORK.parameters())


@pytest.mark.filterwarnings("ignore:called a synchronizing")
@pytest.mark.parametrize(
    ("disturb", "said"),
    [
        (lambda: torch.rand(1), "draws random numbers on the host"),
        (random.random, "draws random numbers on the host"),
        (np.random.random, "draws random numbers on the host"),
        (lambda: warnings.warn("called a synchronizing CUDA operation", stacklevel=1), "waits for the device"),
    ],
)
def test_steps_that_a_graph_would_repeat_wrongly_stay_as_they_are(monkeypatch, tmp_path, caplog, disturb, said):
    caplog.set_level("INFO", logger="imgcls")
    losses(monkeypatch, tmp_path, disturb=disturb)
    assert Repeated.made == 0
    assert caplog.text.count(f"cuda_graph: left out, since a step {said}") == 1


def test_a_graph_leaves_room_for_evaluation(monkeypatch, tmp_path, caplog):
    caplog.set_level("INFO", logger="imgcls")
    losses(monkeypatch, tmp_path, peak=61)  # 30 held, 31 for a step: 92 of 100
    assert Repeated.made == 0
    assert "takes most of the memory" in caplog.text


def test_batches_of_another_kind_get_a_graph_of_their_own(monkeypatch, tmp_path):
    class Other(Rows):
        def __len__(self):
            return 42  # the last batch is smaller

    monkeypatch.setattr(sys.modules[__name__], "Rows", Other)
    expected, *_ = losses(monkeypatch, tmp_path, may=False)
    found, *_ = losses(monkeypatch, tmp_path)
    assert found == expected
    assert Repeated.made == 2


@pytest.mark.parametrize(
    "of_args",
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
def test_only_plain_training_on_one_cuda_device_is_captured(of_args):
    class Bare(CapturingTrainer):
        def __init__(self, **given):
            usual = dict.fromkeys(("fp16", "gradient_checkpointing", "torch_empty_cache_steps"), False)
            usual |= {"world_size": 1, "n_gpu": 1, "gradient_accumulation_steps": 1, "device": "cuda"}
            self.args = SimpleNamespace(**{**usual, **given})
            self.args.device = SimpleNamespace(type=self.args.device)
            self.model = NETWORK
            self.is_fsdp_enabled = self.is_deepspeed_enabled = False

    assert Bare()._may_capture([])
    assert not Bare(**of_args)._may_capture([])
    assert not Bare()._may_capture([None])
    assert not Bare()._may_capture([torch.zeros(1)])  # on the host


@pytest.mark.parametrize(
    ("raised", "kind", "said"),
    [
        (
            RuntimeError("CUDA error: operation not permitted\nmore"),
            ModelError,
            "operation not permitted. Give --cuda_gr",
        ),
        (torch.OutOfMemoryError("CUDA out of memory."), torch.OutOfMemoryError, "out of memory"),
    ],
)
def test_a_step_that_no_graph_can_hold_is_one_line(monkeypatch, tmp_path, raised, kind, said):
    def fail(self, function, *given):
        raise raised

    monkeypatch.setattr(Repeated, "__init__", fail)
    with pytest.raises(kind, match=said):
        losses(monkeypatch, tmp_path)


@cuda
@pytest.mark.parametrize("more", [(), ("--augment", "none"), ("--ema", "0.9")])
def test_graphs_train_as_single_kernels_do(train, resnet, shapes, tmp_path, more):
    histories = []
    for way in ("auto", "off"):
        run = tmp_path / way
        done = train(
            "--model", resnet, "--data", shapes, "--tune", "full", "--output_dir", run, "--epochs", 4,
            "--batch_size", 8, "--cuda_graph", way, "--compile", "off", "--fresh", *more,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "cuda_graph: left out" not in done.stderr
        assert ("on the accelerator" in done.stderr) == (more != ("--augment", "none"))
        lines = (run / "history.jsonl").read_text().splitlines()
        histories.append(
            [entry["eval_loss"] for line in lines if "eval_loss" in (entry := __import__("json").loads(line))]
        )
    assert histories[0] == pytest.approx(histories[1], rel=0.02)
