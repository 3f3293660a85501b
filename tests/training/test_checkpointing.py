"""Checkpoints: their loaders' random numbers, a full disk, and which one is the best."""

import json
import shutil

import pytest
import torch
from transformers import TrainingArguments

from imgcls.config.training_options import METRICS
from imgcls.errors import RunError
from imgcls.storage.run_folder import RunFolder
from imgcls.training.checkpointing import CheckpointingTrainer
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


@pytest.mark.parametrize("workers", [0, 2])
def test_with_own_generator_leaves_the_global_random_state(workers):
    class InOrder(CheckpointingTrainer):
        def _get_train_sampler(self, train_dataset=None):
            return None

    args = TrainingArguments(
        output_dir="unused",
        dataloader_num_workers=workers,
        dataloader_persistent_workers=workers > 0,
        use_cpu=True,
    )
    trainer = InOrder(torch.nn.Linear(1, 1), args, data_collator=torch.tensor, train_dataset=range(8))
    loader, before = trainer.get_train_dataloader(), torch.get_rng_state()
    assert [len(list(loader)), len(list(loader))] == [1, 1]
    assert torch.equal(torch.get_rng_state(), before)


def test_save_checkpoint_on_a_full_disk_raises_one_line_and_leaves_no_partial_checkpoint(tmp_path, monkeypatch):
    class Full(ImageTrainer):
        def __init__(self):
            self.run, self._is_saving = RunFolder(tmp_path), False
            self.state = type("State", (), {"global_step": 3})
            self.model = torch.nn.Linear(10**6, 1, bias=False)  # --tune head trains a module without num_parameters

    def save(self, model, trial):
        (tmp_path / "checkpoints/.partial/checkpoint-3").mkdir(parents=True)
        raise RuntimeError("unexpected pos 6518528 vs 6518420")

    monkeypatch.setattr("transformers.Trainer._save_checkpoint", save)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**7, 10**7, 0))
    with pytest.raises(RunError, match="12 MB for a checkpoint"):
        Full()._save_checkpoint(None, None)
    assert not (tmp_path / "checkpoints/.partial").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 0, 10**9))
    with pytest.raises(RuntimeError, match="unexpected pos"):
        Full()._save_checkpoint(None, None)


def test_load_best_model_gives_the_run_folder_the_best_weights(fit):
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
        ("loss", [0.9, 0.5, 0.51, 0.52], 2),  # not a fraction: compared as it is
    ],
)
def test_determine_best_metric_takes_the_latest_of_equally_good_models(fit, monkeypatch, metric, course, best_epoch):
    values = iter(course)

    def planned(self, prediction, compute_result=True):
        return dict.fromkeys(METRICS, 0.0) | {metric: next(values)} if compute_result else {}

    monkeypatch.setattr(ImageTrainer, "_compute_metrics", planned)
    done, run = fit("run", "--epochs", 4, "--metric_for_best_model", metric)
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "metrics.json").read_text())["train"]["best_epoch"] == best_epoch
