"""An exponential moving average of the weights beside training: evaluated and kept, while checkpoints hold both."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback

FILE = "averaged.safetensors"  # in a checkpoint, beside the raw weights from which training goes on


class EmaCallback(TrainerCallback):
    """timm's ModelEmaV3 of what is trained. decay: share of the average that a step keeps, rising to it in warm-up.

    Source: Polyak & Juditsky 1992; the warm-up is timm's.
    """

    def __init__(self, module: nn.Module, decay: float):
        from timm.utils import ModelEmaV3  # half a second and 20 MB, which a training without an average does not need

        self.module = module
        self.average = ModelEmaV3(module, decay=decay, use_warmup=True)

    def on_train_begin(self, args, state, control, **kwargs):
        self.average.to(args.device)

    def on_step_end(self, args, state, control, **kwargs):
        self.average.update(self.module, step=state.global_step)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block the module has the averaged weights, after it its own again."""
        own = {name: value.clone() for name, value in self.module.state_dict().items()}
        self.module.load_state_dict(self.average.module.state_dict())
        try:
            yield
        finally:
            self.module.load_state_dict(own)

    def save(self, folder: Path) -> None:
        """Write the average into a checkpoint."""
        weights = self.average.module.state_dict()
        save_file({name: value.contiguous().clone() for name, value in weights.items()}, folder / FILE)

    def load(self, folder: Path) -> None:
        """Take the average up where a checkpoint left it."""
        self.average.module.load_state_dict(load_file(folder / FILE))

    def become(self, folder: Path) -> None:
        """Give the module the average that a checkpoint holds."""
        self.module.load_state_dict(load_file(folder / FILE))
