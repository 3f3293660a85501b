"""Memory layouts, photos on the accelerator, draws, and a disk that fills while a checkpoint is written."""

import multiprocessing
import shutil
from types import SimpleNamespace

import pytest
import tiny
import torch
from transformers import TrainingArguments

from imgcls.dataloading.sampler import EpochSampler
from imgcls.errors import RunError
from imgcls.models import classifier, source
from imgcls.models.classifier import memory_layout
from imgcls.storage.run_folder import RunFolder
from imgcls.training.checkpointing import CheckpointingTrainer
from imgcls.training.trainer import ImageTrainer


def test_narrow_convolutions_keep_the_ordinary_layout(tmp_path):
    narrow = classifier.build_classifier(source.resolve_model(str(tiny.write("resnet-18", tmp_path))), ["a", "b"])
    real = classifier.build_classifier(source.resolve_model("resnet-18"), ["a", "b"], from_scratch=True)
    assert memory_layout(narrow.network) is torch.contiguous_format
    assert memory_layout(real.network) is torch.channels_last


@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_take_no_draws_from_training(workers):
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


def test_photos_move_once_and_their_readers_end(train, resnet, shapes, tmp_path, monkeypatch):
    epochs, readers, before = [], [], set(multiprocessing.active_children())
    deal, run_epoch = EpochSampler.__iter__, ImageTrainer._run_epoch

    def dealt(self):
        epochs.append(self.epoch)
        return deal(self)

    def watched(self, **options):
        done = run_epoch(self, **options)
        readers.append(len(set(multiprocessing.active_children()) - before))
        return done

    monkeypatch.setenv("IMGCLS_CACHE", str(tmp_path / "cache"))  # in which no photo is kept yet
    monkeypatch.setattr(EpochSampler, "EpochSampler", dealt)
    monkeypatch.setattr(ImageTrainer, "ImageTrainer", watched)
    monkeypatch.setattr(ImageTrainer, "ImageTrainer", lambda self: self.on_accelerator.is_possible)
    done = train(
        "--model", resnet, "--data", shapes, "--tune", "full", "--output_dir", tmp_path / "run", "--epochs", 3,
        "--dataloader_num_workers", 1, "--eval_strategy", "no", "--save_strategy", "no", "--fresh",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("on the accelerator") == 1
    assert epochs == [0, 1, 2]
    assert readers == [1, 0, 0]  # none once the host deals numbers alone


def test_each_training_on_resident_photos_has_its_own_order(monkeypatch):
    class Resident(ImageTrainer):
        def __init__(self):
            self.resident, self.sampler = object(), SimpleNamespace(epoch=None)  # of a loader that no one uses
            self._dealt = ("boxes", SimpleNamespace(epoch=0))

    monkeypatch.setattr("transformers.Trainer._run_epoch", lambda self, **given: given["train_dataloader"])
    trainer = Resident()
    assert trainer._run_epoch(epoch=3, train_dataloader="pixels") == "boxes"
    assert trainer._dealt[1].epoch == 3


def test_a_full_disk_is_one_line_and_leaves_no_half_checkpoint(tmp_path, monkeypatch):
    class Full(ImageTrainer):
        def __init__(self):
            self.run, self._saving = RunFolder(tmp_path), False
            self.state = type("State", (), {"global_step": 3})
            self.model = type("Model", (), {"num_parameters": staticmethod(lambda: 10**6)})

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
