"""Out of memory: before training, amid it, for good; and what evaluation and stopping options do to a run."""

import json

import pytest
import torch
from drawings import class_folders
from safetensors.torch import load_file

from imgcls.config.training_options import METRICS
from imgcls.training.fit import halve_batch
from imgcls.training.trainer import ImageTrainer


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


@pytest.mark.parametrize(("before", "after"), [((16, 1), (8, 2)), ((6, 1), (3, 2)), ((3, 2), (1, 6)), ((7, 1), (1, 7))])
def test_halving_keeps_the_effective_batch(before, after):
    assert halve_batch(*before) == after


def short_of_memory(monkeypatch, largest, method, from_step=0):
    """ImageTrainer's method raises what CUDA raises when the batch is larger than `largest`."""
    original = getattr(ImageTrainer, method)

    def limited(self, *arguments, **options):
        if self._train_batch_size > largest and self.state.global_step >= from_step:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return original(self, *arguments, **options)

    monkeypatch.setattr(ImageTrainer, method, limited)


def test_a_batch_that_does_not_fit_is_halved_and_gives_the_same_run(fit, monkeypatch):
    options = ("--epochs", 2, "--seed", 5)
    asked, expected = fit("asked", *options, "--batch_size", 4, "--gradient_accumulation_steps", 4)
    assert asked.returncode == 0, asked.stderr
    short_of_memory(monkeypatch, 4, "rehearse")
    done, run = fit("halved", *options, "--batch_size", 16)
    assert done.returncode == 0, done.stderr
    assert "the batch became 8 x 2 accumulated" in done.stderr
    assert "the batch became 4 x 4 accumulated" in done.stderr
    found = load_file(run / "model.safetensors")
    assert all(torch.equal(found[name], value) for name, value in load_file(expected / "model.safetensors").items())


def test_memory_that_runs_out_amid_training_costs_only_the_steps_since_the_last_checkpoint(fit, monkeypatch):
    short_of_memory(monkeypatch, 4, "training_step", from_step=9)  # 8 steps an epoch, the first one is saved
    done, run = fit("run", "--epochs", 2, "--batch_size", 8, "--gradient_accumulation_steps", 1, "--max_steps", 12)
    assert done.returncode == 0, done.stderr
    assert "the batch became 4 x 2 accumulated" in done.stderr
    assert "going on from step" in done.stderr
    assert json.loads((run / "metrics.json").read_text())["train"]["epochs"] == pytest.approx(3, abs=0.1)


def test_not_even_one_image_fits(fit, monkeypatch):
    short_of_memory(monkeypatch, 0, "rehearse")
    done, run = fit("run", "--batch_size", 2)
    assert done.returncode == 1
    assert "--image_px" in done.stderr
    assert not (run / "metrics.json").exists()


def test_evaluation_every_n_epochs_and_after_the_last(fit):
    done, run = fit("run", "--epochs", 5, "--eval_every_epochs", 2)
    assert done.returncode == 0, done.stderr
    assert evaluations(run) == [2, 4, 5]


def test_max_steps_ends_with_an_evaluation(fit):
    done, run = fit("run", "--max_steps", 5, "--batch_size", 8)
    assert done.returncode == 0, done.stderr
    assert history(run)[-1]["step"] == 5
    assert len(evaluations(run)) == 2  # 4 steps an epoch


def test_early_stopping_stops_and_says_so(fit):
    done, run = fit("run", "--epochs", 30, "--lr", 1e-9, "--early_stopping_patience", 2)
    assert done.returncode == 0, done.stderr
    assert evaluations(run) == [1, 2, 3]
    assert json.loads((run / "metrics.json").read_text())["train"]["stopped_early"] is True


def test_the_best_model_is_the_one_in_the_run_folder(fit):
    done, run = fit("run", "--epochs", 4, "--lr", 3e-3, "--metric_for_best_model", "loss")
    assert done.returncode == 0, done.stderr
    best = min(e["eval_loss"] for e in history(run) if "eval_loss" in e)
    assert json.loads((run / "metrics.json").read_text())["validation"]["loss"] == pytest.approx(best, rel=1e-4)


@pytest.mark.parametrize(
    ("metric", "course", "best_epoch"),
    [
        ("accuracy", [0.5, 0.9, 0.85, 0.6], 3),  # 9 validation images: 0.85 is within a standard error of 0.9
        ("accuracy", [0.9, 0.5, 0.6, 0.5], 1),
        ("macro_f1", [0.5, 0.9, 0.9, 0.89], 4),
        ("loss", [0.9, 0.5, 0.51, 0.52], 2),  # no share: compared as it is
    ],
)
def test_the_latest_of_equally_good_models_is_the_best(fit, monkeypatch, metric, course, best_epoch):
    given = iter(course)

    def planned(self, prediction, compute_result=True):
        return dict.fromkeys(METRICS, 0.0) | {metric: next(given)} if compute_result else {}

    monkeypatch.setattr(ImageTrainer, "ImageTrainer", planned)
    done, run = fit("run", "--epochs", 4, "--metric_for_best_model", metric)
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "metrics.json").read_text())["train"]["best_epoch"] == best_epoch


def test_class_weights_change_what_is_learned(fit, tmp_path):
    data = class_folders(tmp_path / "data")
    for file in sorted((data / "cross").iterdir())[4:]:
        file.unlink()
    options = ("--data", data, "--max_steps", 3, "--class_weights")
    runs = [fit(weights, *options, weights) for weights in ("none", "balanced")]
    assert all(done.returncode == 0 for done, _ in runs)
    first, second = (load_file(run / "model.safetensors") for _, run in runs)
    assert any(not torch.equal(value, second[name]) for name, value in first.items())


def test_every_parameter_learns(fit, resnet):
    done, run = fit("run", "--max_steps", 3)
    assert done.returncode == 0, done.stderr
    before, after = load_file(resnet / "model.safetensors"), load_file(run / "model.safetensors")
    same = [name for name, value in before.items() if "num_batches" not in name and torch.equal(value, after[name])]
    assert not same


def test_training_lowers_the_loss(fit):
    done, run = fit("run", "--epochs", 8)
    assert done.returncode == 0, done.stderr
    losses = [e["loss"] for e in history(run) if "loss" in e]
    assert losses[-1] < 0.7 * losses[0]
