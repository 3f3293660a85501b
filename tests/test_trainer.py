"""Memory layouts, and a disk that fills while a checkpoint is written."""

import shutil

import pytest
import tiny
import torch

from imgcls import model, source
from imgcls.artifacts import RunFolder
from imgcls.errors import RunError
from imgcls.model import memory_layout
from imgcls.trainer import ImageTrainer


def test_narrow_convolutions_keep_the_ordinary_layout(tmp_path):
    narrow = model.build(source.locate(str(tiny.write("resnet-18", tmp_path))), ["a", "b"])
    real = model.build(source.locate("resnet-18"), ["a", "b"], from_scratch=True)
    assert memory_layout(narrow.network) is torch.contiguous_format
    assert memory_layout(real.network) is torch.channels_last


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
