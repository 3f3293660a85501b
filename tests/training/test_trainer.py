"""ImageTrainer through whole runs, and the methods of transformers' Trainer that it relies on."""

import inspect
import json
import multiprocessing
from types import SimpleNamespace

import pytest
import tiny
import torch
import transformers
from drawings import class_folders
from safetensors.torch import load_file

from imgcls.dataloading.sampler import EpochSampler
from imgcls.models import classifier, source
from imgcls.models.classifier import memory_layout
from imgcls.training import trainer
from imgcls.training.gpu_resident import GpuResident
from imgcls.training.trainer import ImageTrainer

# Private methods of transformers' Trainer that imgcls overrides, and their parameters that it uses.
PRIVATE_OVERRIDES = {
    "_get_train_sampler": ["train_dataset"],
    "_run_epoch": ["epoch", "train_dataloader"],
    "_prepare_inputs": ["inputs"],
    "_determine_best_metric": ["metrics", "trial"],
    "_get_dataloader": ["dataset", "sampler_fn", "is_training"],
    "_get_output_dir": ["trial"],
    "_save_checkpoint": ["model", "trial"],
    "_load_from_checkpoint": ["resume_from_checkpoint", "model"],
    "_load_best_model": [],
}


@pytest.fixture
def fit(train, resnet, shapes, tmp_path):
    """Train into tmp_path/NAME; returns the finished command and the run folder."""

    def run(name, *options):
        folder = tmp_path / name
        return train("--model", resnet, "--data", shapes, "--tune", "full", "--output_dir", folder, *options), folder

    return run


def history(run):
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


def evaluations(run):
    return [round(e["epoch"], 2) for e in history(run) if "eval_loss" in e]


def overrides():
    """Names of the methods of transformers' Trainer that ImageTrainer, or a class between the two, overrides."""
    classes = ImageTrainer.__mro__[: ImageTrainer.__mro__.index(transformers.Trainer)]
    names = {name for cls in classes for name, value in vars(cls).items() if inspect.isfunction(value)}
    return {name for name in names if not name.startswith("__") and hasattr(transformers.Trainer, name)}


def test_overrides_are_listed_in_the_docstring():
    assert {name for name in overrides() if name.startswith("_")} == set(PRIVATE_OVERRIDES)
    assert not [name for name in overrides() if name not in trainer.__doc__]


@pytest.mark.parametrize("name", PRIVATE_OVERRIDES)
def test_overridden_private_methods_exist_in_transformers(name):
    method = getattr(transformers.Trainer, name, None)
    advice = f"in transformers {transformers.__version__}. Read its Trainer and adapt imgcls/training."
    assert method is not None, f"Expected Trainer.{name}, which imgcls overrides, got none {advice}"
    parameters = inspect.signature(method).parameters
    missing = [parameter for parameter in PRIVATE_OVERRIDES[name] if parameter not in parameters]
    assert not missing, f"Expected Trainer.{name} with {', '.join(missing)}, got other parameters {advice}"


def test_run_epoch_is_called_by_keyword():
    call = inspect.getsource(transformers.Trainer._inner_training_loop).partition("self._run_epoch(")[2]
    assert "epoch=epoch" in call
    assert "train_dataloader=train_dataloader" in call


def test_memory_layout_keeps_the_default_for_narrow_convolutions(tmp_path):
    narrow = classifier.build_classifier(source.resolve_model(str(tiny.write("resnet-18", tmp_path))), ["a", "b"])
    real = classifier.build_classifier(source.resolve_model("resnet-18"), ["a", "b"], from_scratch=True)
    assert memory_layout(narrow.network) is torch.contiguous_format
    assert memory_layout(real.network) is torch.channels_last


def test_run_epoch_loads_images_onto_the_gpu_once_and_ends_readers(train, resnet, shapes, tmp_path, monkeypatch):
    epochs, readers, before = [], [], set(multiprocessing.active_children())
    iterate, run_epoch = EpochSampler.__iter__, ImageTrainer._run_epoch

    def recorded_order(self):
        epochs.append(self.epoch)
        return iterate(self)

    def recorded_epoch(self, **kwargs):
        output = run_epoch(self, **kwargs)
        readers.append(len(set(multiprocessing.active_children()) - before))
        return output

    monkeypatch.setenv("IMGCLS_CACHE", str(tmp_path / "cache"))  # which is empty
    monkeypatch.setattr(EpochSampler, "__iter__", recorded_order)
    monkeypatch.setattr(ImageTrainer, "_run_epoch", recorded_epoch)
    monkeypatch.setattr(GpuResident, "fits", lambda self, *_: self.crop_dataset.is_possible)
    done = train(
        "--model", resnet, "--data", shapes, "--tune", "full", "--output_dir", tmp_path / "run", "--epochs", 3,
        "--dataloader_num_workers", 1, "--eval_strategy", "no", "--save_strategy", "no", "--fresh",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("onto the GPU") == 1
    assert epochs == [0, 1, 2]
    assert readers == [1, 0, 0]  # none once the CPU only sends indices and random parameters


def test_run_epoch_sets_the_epoch_of_the_sampler_in_use(monkeypatch):
    class WithResident(ImageTrainer):
        def __init__(self):
            self.sampler = SimpleNamespace(epoch=None)  # of a loader that is not used
            self.resident = SimpleNamespace(batches=("boxes", SimpleNamespace(epoch=0)))

    monkeypatch.setattr("transformers.Trainer._run_epoch", lambda self, **kwargs: kwargs["train_dataloader"])
    with_resident = WithResident()
    assert with_resident._run_epoch(epoch=3, train_dataloader="pixels") == "boxes"
    assert with_resident.resident.batches[1].epoch == 3


@pytest.mark.parametrize("has_best", [True, False])
def test_finish_loads_the_best_weights_or_the_last(monkeypatch, tmp_path, has_best):
    class Killed(ImageTrainer):
        def __init__(self):
            self.args = SimpleNamespace(load_best_model_at_end=True)

    loaded = []
    monkeypatch.setattr(ImageTrainer, "_load_best_model", lambda self: loaded.append("best"))
    monkeypatch.setattr(ImageTrainer, "_load_from_checkpoint", lambda self, folder: loaded.append(folder))
    state = transformers.TrainerState(global_step=8, best_model_checkpoint="checkpoint-4" if has_best else None)
    state.save_to_json(str(tmp_path / "trainer_state.json"))
    killed = Killed()
    killed.finish(tmp_path)
    assert loaded == ["best" if has_best else str(tmp_path)]
    assert killed.state.global_step == 8


def test_train_evaluates_every_n_epochs_and_after_the_last(fit):
    done, run = fit("run", "--epochs", 5, "--eval_every_epochs", 2)
    assert done.returncode == 0, done.stderr
    assert evaluations(run) == [2, 4, 5]


def test_train_with_max_steps_ends_with_an_evaluation(fit):
    done, run = fit("run", "--max_steps", 5, "--batch_size", 8)
    assert done.returncode == 0, done.stderr
    assert history(run)[-1]["step"] == 5
    assert len(evaluations(run)) == 2  # 4 steps an epoch


def test_train_stops_early_and_reports_it(fit):
    done, run = fit("run", "--epochs", 30, "--lr", 1e-9, "--early_stopping_patience", 2)
    assert done.returncode == 0, done.stderr
    assert evaluations(run) == [1, 2, 3]
    assert json.loads((run / "metrics.json").read_text())["train"]["stopped_early"] is True


def test_train_learns_otherwise_with_class_weights(fit, tmp_path):
    data = class_folders(tmp_path / "data")
    for file in sorted((data / "cross").iterdir())[4:]:
        file.unlink()
    options = ("--data", data, "--max_steps", 3, "--class_weights")
    runs = [fit(weights, *options, weights) for weights in ("none", "balanced")]
    assert all(done.returncode == 0 for done, _ in runs)
    first, second = (load_file(run / "model.safetensors") for _, run in runs)
    assert any(not torch.equal(value, second[name]) for name, value in first.items())


def test_train_changes_every_parameter(fit, resnet):
    done, run = fit("run", "--max_steps", 3)
    assert done.returncode == 0, done.stderr
    before, after = load_file(resnet / "model.safetensors"), load_file(run / "model.safetensors")
    same = [name for name, value in before.items() if "num_batches" not in name and torch.equal(value, after[name])]
    assert not same


def test_train_lowers_the_loss(fit):
    done, run = fit("run", "--epochs", 8)
    assert done.returncode == 0, done.stderr
    losses = [e["loss"] for e in history(run) if "loss" in e]
    assert losses[-1] < 0.7 * losses[0]
