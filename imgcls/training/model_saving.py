"""Model and image processor saved as an ordinary Hugging Face model folder, each file whole or not at all."""

from __future__ import annotations

import contextlib
import copy
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from peft import PeftModel

from imgcls.models import lora
from imgcls.storage import run_folder
from imgcls.training.trainer import ImageTrainer


def save_model(trainer: ImageTrainer, run: run_folder.RunFolder) -> None:
    """Model and image processor in the run's root, each file whole or not at all; a LoRA run's adapter beside them."""
    trained = trainer.unwrapped()  # the network's own forward again, where mixed precision had wrapped it
    network = trainer.classifier.network
    if isinstance(trained, PeftModel):
        _write_beside(run / run_folder.ADAPTER, lambda folder: lora.save_adapter(trained, folder), run)
        network = lora.merge_adapter(trained)
    _write_beside(run.path, network.save_pretrained, run)
    if not hasattr(trainer.classifier.processor, "data_config"):  # timm's stands in config.json
        _write_beside(run.path, trainer.classifier.processor.save_pretrained, run)


def write_model(trainer: ImageTrainer, folder: Path) -> None:
    """Model and image processor as they are amid a training, which goes on as if nothing had been asked."""
    trained = trainer.unwrapped()
    with trainer.average.in_place() if trainer.average else contextlib.nullcontext():
        is_adapter = isinstance(trained, PeftModel)
        network = lora.merge_adapter(copy.deepcopy(trained)) if is_adapter else trainer.classifier.network
        network.save_pretrained(folder)
    if not hasattr(trainer.classifier.processor, "data_config"):
        trainer.classifier.processor.save_pretrained(folder)


def _write_beside(folder: Path, write: Callable[[str], None], run: run_folder.RunFolder) -> None:
    """Let `write_results` fill a folder of its own, then move its files, each whole, to where they belong."""
    with tempfile.TemporaryDirectory(dir=run.path, prefix=".model.") as beside:
        write(beside)
        folder.mkdir(exist_ok=True)
        for file in sorted(Path(beside).iterdir()):
            shutil.copymode(run / run_folder.OPTIONS, file)  # safetensors writes files for the owner only
            file.replace(folder / file.name)
