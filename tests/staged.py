"""Several commands of scripts/train.py in one process, which pays for the imports once, with something staged.

STAGED holds a JSON list of {"arguments": [...]} with, at will,
keep: folder in which rank 0 leaves the first step's gradients and every rank its weights after the last step. The
network stays in evaluation mode (batch norm, dropout) and computes in float64: in float32, rounding moves values across
the kinks of ReLU and hard swish, where the gradient jumps, and would hide what is looked for;
fsdp: weights spread over the processes, which accelerate otherwise does on GPUs only;
kill_at_step: SIGKILL to this process once that step is taken;
kill_in_checkpoint: SIGKILL when half of that step's optimizer state is written.
"""

import io
import json
import os
import signal
import sys
from pathlib import Path

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from commands import TRAIN, main_of
from transformers import TrainerCallback

from imgcls.config import parser
from imgcls.training.trainer import ImageTrainer


class Keep(TrainerCallback):
    """Gradients before the first optimizer step; each rank's weights as training leaves them."""

    def __init__(self, folder):
        self.folder = Path(folder)

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        if state.global_step == 0 and args.process_index == 0:
            torch.save({n: p.grad for n, p in model.named_parameters() if p.grad is not None}, self.folder / "grad.pt")

    def on_step_end(self, args, state, control, model, **kwargs):
        if state.global_step == state.max_steps:
            torch.save(model.state_dict(), self.folder / f"weights{args.process_index}.pt")


class Kill(TrainerCallback):
    """SIGKILL after a step: no handler runs, nothing is flushed."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def as_double(network, arguments, named):
    return arguments, named | {"pixel_values": named["pixel_values"].double()}


def run(command):
    """One command, as the script's main; returns its exit code."""

    def made(self, *arguments, **options):
        make(self, *arguments, **options)
        if "keep" in command:
            self.add_callback(Keep(command["keep"]))
            self.model.double().eval().train = lambda mode=True: self.model
            self.model.register_forward_pre_hook(as_double, with_kwargs=True)
        if "kill_at_step" in command:
            self.add_callback(Kill(command["kill_at_step"]))

    def save_half(content, file, *arguments, **options):
        if str(file).endswith(f"checkpoint-{command['kill_in_checkpoint']}/optimizer.pt"):
            whole = io.BytesIO()
            save(content, whole, *arguments, **options)
            with open(file, "wb") as half:
                half.write(whole.getvalue()[: whole.tell() // 2])
                half.flush()
                os.kill(os.getpid(), signal.SIGKILL)
        save(content, file, *arguments, **options)

    def spread(self, *arguments, fsdp_plugin=None, **options):
        prepare(self, *arguments, fsdp_plugin=fsdp_plugin, **options)
        if fsdp_plugin is not None:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin

    save, make, prepare = torch.save, ImageTrainer.__init__, AcceleratorState.__init__
    sys.argv = [str(TRAIN), *command["arguments"]]
    try:
        ImageTrainer.__init__ = made
        if "kill_in_checkpoint" in command:
            torch.save = save_half
        if "fsdp" in command:
            AcceleratorState.__init__ = spread
        return parser.run_main(main_of(TRAIN))
    finally:
        ImageTrainer.__init__, torch.save, AcceleratorState.__init__ = make, save, prepare


if __name__ == "__main__":
    sys.exit(max(run(command) for command in json.loads(os.environ["STAGED"])))
