"""Out of memory before training, during it and with a single image; checkpoints of earlier versions."""

import json
import signal

import pytest
import torch
from safetensors.torch import load_file

from imgcls.training import dry_run
from imgcls.training.fit import halve_batch
from imgcls.training.trainer import ImageTrainer

OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.fixture
def fit(train, resnet, shapes, tmp_path):
    """Train into tmp_path/NAME; returns the finished command and the run folder."""

    def run(name, *options):
        folder = tmp_path / name
        return train("--model", resnet, "--data", shapes, "--tune", "full", "--output_dir", folder, *options), folder

    return run


@pytest.mark.parametrize(("before", "after"), [((16, 1), (8, 2)), ((6, 1), (3, 2)), ((3, 2), (1, 6)), ((7, 1), (1, 7))])
def test_halve_batch_keeps_the_effective_batch(before, after):
    assert halve_batch(*before) == after


def limit_dry_run(monkeypatch, largest):
    """A dry run raises what CUDA raises when the batch is larger than `largest`."""
    time_step = dry_run.time_step

    def limited(network, batch_loss, train, validation, batch_size, *args, **kwargs):
        if batch_size > largest:
            raise OUT_OF_MEMORY
        return time_step(network, batch_loss, train, validation, batch_size, *args, **kwargs)

    monkeypatch.setattr(dry_run, "time_step", limited)


def test_fit_halves_a_batch_that_does_not_fit_and_trains_the_same_model(fit, monkeypatch):
    options = ("--epochs", 2, "--seed", 5)
    done, expected = fit("expected", *options, "--batch_size", 4, "--gradient_accumulation_steps", 4)
    assert done.returncode == 0, done.stderr
    limit_dry_run(monkeypatch, 4)
    done, run = fit("halved", *options, "--batch_size", 16)
    assert done.returncode == 0, done.stderr
    assert "the batch became 8 x 2 accumulated" in done.stderr
    assert "the batch became 4 x 4 accumulated" in done.stderr
    weights = load_file(run / "model.safetensors")
    assert all(torch.equal(weights[name], value) for name, value in load_file(expected / "model.safetensors").items())


def test_fit_resumes_with_half_the_batch_when_training_runs_out_of_memory(fit, monkeypatch):
    training_step = ImageTrainer.training_step

    def limited(self, *args, **kwargs):
        if self._train_batch_size > 4 and self.state.global_step >= 9:  # the first epoch's 4 steps were saved
            raise OUT_OF_MEMORY
        return training_step(self, *args, **kwargs)

    monkeypatch.setattr(ImageTrainer, "training_step", limited)
    done, run = fit("run", "--epochs", 2, "--batch_size", 8, "--gradient_accumulation_steps", 1, "--max_steps", 12)
    assert done.returncode == 0, done.stderr
    assert "the batch became 4 x 2 accumulated" in done.stderr
    assert "resuming from step" in done.stderr
    assert json.loads((run / "metrics.json").read_text())["train"]["epochs"] == pytest.approx(3, abs=0.1)


def test_fit_ends_with_advice_when_one_image_does_not_fit(fit, monkeypatch):
    limit_dry_run(monkeypatch, 0)
    done, run = fit("run", "--batch_size", 2)
    assert done.returncode == 1
    assert "--image_px" in done.stderr
    assert not (run / "metrics.json").exists()


@pytest.mark.nightly
def test_fit_resumes_a_checkpoint_with_former_names_of_callbacks(fit, staged, resnet, shapes, tmp_path):
    run = tmp_path / "run"
    options = ("--model", resnet, "--data", shapes, "--tune", "full", "--output_dir", run, "--epochs", 2)
    options += ("--batch_size", 8)  # 4 steps an epoch
    killed = staged({"arguments": options, "kill_at_step": 6})
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    file = run / "checkpoints" / "checkpoint-4" / "trainer_state.json"
    state = json.loads(file.read_text())
    callbacks = state["stateful_callbacks"]
    del callbacks["StopwatchCallback"]
    callbacks["Stopwatch"] = {"args": {}, "attributes": {"seconds": 5000.0}}
    file.write_text(json.dumps(state))
    done, run = fit("run", "--epochs", 2, "--batch_size", 8)
    assert done.returncode == 0, done.stderr
    assert "resuming from step 4 of 8" in done.stderr
    assert "callbacks not included" not in done.stderr
    assert 5000 < json.loads((run / "metrics.json").read_text())["train"]["seconds"] < 5100
