"""Save model and image processor as an ordinary Hugging Face model folder, each file complete or not at all."""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from peft import PeftModel
from transformers import BaseImageProcessor

from imgcls.models import lora
from imgcls.storage import run_folder
from imgcls.training.trainer import ImageTrainer


def save_model(trainer: ImageTrainer, run: run_folder.RunFolder) -> None:
    """Write model and image processor into the run's root; the adapter of a LoRA run also into a folder of its own."""
    trained = trainer.unwrapped()  # the network's own forward again, where mixed precision had wrapped it
    network = trainer.classifier.network
    if isinstance(trained, PeftModel):
        _write_then_move(run / run_folder.ADAPTER, lambda folder: lora.save_adapter(trained, folder), run)
        network = lora.merge_adapter(trained)
    _write_then_move(run.path, lambda folder: network.save_pretrained(folder), run)
    if _has_processor_file(trainer):
        processor = trainer.classifier.processor
        _write_then_move(run.path, lambda folder: _save_processor(processor, folder), run)


def _save_processor(processor: BaseImageProcessor, folder: str) -> None:
    processor.save_pretrained(folder)


def write_model(trainer: ImageTrainer, folder: Path) -> None:
    """Write model and image processor as they are at this moment of a training, which is not affected."""
    trained = trainer.unwrapped()
    with trainer.evaluated_weights():
        is_adapter = isinstance(trained, PeftModel)
        network = lora.merge_adapter(copy.deepcopy(trained)) if is_adapter else trainer.classifier.network
        network.save_pretrained(folder)
    if _has_processor_file(trainer):
        trainer.classifier.processor.save_pretrained(folder)


def _has_processor_file(trainer: ImageTrainer) -> bool:
    return not hasattr(trainer.classifier.processor, "data_config")  # timm's processor is part of config.json


def _write_then_move(folder: Path, write: Callable[[str], None], run: run_folder.RunFolder) -> None:
    """Let `write` fill a temporary folder, then move its files into `folder`, each complete."""
    with tempfile.TemporaryDirectory(dir=run.path, prefix=".model.") as temporary:
        write(temporary)
        folder.mkdir(exist_ok=True)
        for file in sorted(Path(temporary).iterdir()):
            shutil.copymode(run / run_folder.OPTIONS, file)  # safetensors writes files for the owner only
            file.replace(folder / file.name)
