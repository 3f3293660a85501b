"""An exponential moving average (EMA) of the weights: it is evaluated and saved; checkpoints hold both."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

FILE = "averaged.safetensors"  # in a checkpoint, next to the raw weights from which training resumes


class EmaCallback(TrainerCallback):
    """Updates timm's ModelEmaV3 of a module after each step.

    decay: fraction of the average that remains after a step, reached after timm's warm-up.
    Source: Polyak & Juditsky 1992.
    """

    def __init__(self, module: nn.Module, decay: float):
        from timm.utils.model_ema import (
            ModelEmaV3,  # half a second and 20 MB, which a training without an average does not need
        )

        self.module = module
        self._ema = ModelEmaV3(module, decay=decay, use_warmup=True)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        self._ema.to(args.device)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        self._ema.update(self.module, step=state.global_step)

    def reset_to(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Start the average from these weights."""
        self._ema.module.load_state_dict(weights)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Within this context the module has the averaged weights, after it its own again."""
        raw = {name: value.clone() for name, value in self.module.state_dict().items()}
        self.module.load_state_dict(self._ema.module.state_dict())
        try:
            yield
        finally:
            self.module.load_state_dict(raw)

    def save(self, folder: Path) -> None:
        """Write the average into a checkpoint."""
        weights = self._ema.module.state_dict()
        save_file({name: value.contiguous().clone() for name, value in weights.items()}, folder / FILE)

    def load(self, folder: Path) -> None:
        """Continue the average of a checkpoint."""
        self._ema.module.load_state_dict(load_file(folder / FILE))

    def load_into_module(self, folder: Path) -> None:
        """Load the average of a checkpoint into the module itself."""
        self.module.load_state_dict(load_file(folder / FILE))
