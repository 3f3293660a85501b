"""A Trainer whose checkpoints are whole whenever it is killed, and are read as they were written."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedModel
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from imgcls.errors import RunError
from imgcls.models.source import ModelSource
from imgcls.storage import atomic_file, run_folder
from imgcls.system import hardware
from imgcls.training.cuda_graph import CapturingTrainer
from imgcls.training.ema import EmaCallback


class CheckpointingTrainer(CapturingTrainer):
    """A Trainer with checkpoints in a run folder, and the averaged weights in them where there are such."""

    run: run_folder.RunFolder
    average: EmaCallback | None = None
    _saving = False

    def _get_dataloader(self, *arguments, **options):
        return with_own_generator(super()._get_dataloader(*arguments, **options))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._load_network(resume_from_checkpoint)
        if self.average:
            self.average.load(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        with hardware.trimmed_heap():  # there are two networks for a moment
            super()._load_best_model()
            self._load_network(self.state.best_model_checkpoint)
        if self.average:
            self.average.become(Path(self.state.best_model_checkpoint))

    def _load_network(self, folder: str) -> None:
        """The weights of a checkpoint, by the names that transformers gave them when it saved them.

        It saves ViTs under the names of their first checkpoints, and Trainer, which reads the file itself, passes over
        all names that it does not know.
        """
        if isinstance(self.model, PreTrainedModel) and not self.is_fsdp_enabled:
            saved = type(self.model).from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
            self.model.load_state_dict(saved.state_dict())

    def _get_output_dir(self, trial) -> str:
        return str(self.run / (run_folder.PARTIAL if self._saving else run_folder.CHECKPOINTS))

    def _save_checkpoint(self, model, trial) -> None:
        """Save beside, then rename: a checkpoint that bears its name is whole, whenever the process is killed."""
        folder, beside = self.run / run_folder.CHECKPOINTS, self.run / run_folder.PARTIAL
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        self._saving = True
        try:
            super()._save_checkpoint(model, trial)
        except Exception as error:  # a full disk is OSError, RuntimeError or SafetensorError, by who was writing
            shutil.rmtree(beside, ignore_errors=True)
            needed, free = 12 * self.model.num_parameters(), shutil.disk_usage(self.run.path).free
            if free > 1.1 * needed:
                raise
            needed, free = atomic_file.format_bytes(needed), atomic_file.format_bytes(free)
            room = f"{needed} for a checkpoint in {folder}, got {free} free"
            raise RunError(
                f"Expected {room}. Make room and give the same command again: it goes on from the last checkpoint."
            ) from error
        finally:
            self._saving = False
        if self.state.best_global_step:
            self.state.best_model_checkpoint = str(folder / f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}")
        self.accelerator.wait_for_everyone()  # every rank writes its random state
        if self.args.should_save:
            self.state.save_to_json(str(beside / name / "trainer_state.json"))
            if self.average:
                self.average.save(beside / name)
            shutil.rmtree(folder / name, ignore_errors=True)
            (beside / name).rename(folder / name)
            rotate_checkpoints(str(folder), self.args.save_total_limit, self.state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()


def with_own_generator(loader: DataLoader) -> DataLoader:
    """The loader: else what it draws when a resumed run opens it anew would shift what training draws from torch's."""
    getattr(loader, "base_dataloader", loader).generator = torch.Generator()
    return loader


def needed_disk_bytes(source: ModelSource, kept: int | None) -> int:
    """Room that a run needs, as far as it is known before a download.

    float32 weights in the root; weights and two AdamW moments in each kept checkpoint and in the one being written.
    """
    weights = 4 * source.checkpoint.parameters if source.checkpoint else 0
    if source.folder is not None:
        weights = sum(file.stat().st_size for file in source.folder.glob("*.safetensors"))
    return weights * (1 + 3 * ((kept or 10) + 1))
