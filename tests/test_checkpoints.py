"""A full disk amid training, and numbers that the table of models must agree with."""

import shutil

import pytest
from tiny import HUB_IDS, PARAMETERS

from imgcls.artifacts import RunFolder
from imgcls.checkpoints import CHECKPOINTS, find
from imgcls.errors import ModelError, RunError
from imgcls.trainer import ImageTrainer


def test_the_table_agrees_with_the_checkpoints():
    assert {name: c.hub_id for name, c in CHECKPOINTS.items()} == HUB_IDS
    assert {name: c.parameters for name, c in CHECKPOINTS.items()} == PARAMETERS


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(ModelError, match="Nearest: resnet-50"):
        find("resnet50")


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
