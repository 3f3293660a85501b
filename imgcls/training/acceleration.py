"""What may make a run's steps faster, tried on its own step and kept where it does: bf16 on a CPU, torch.compile."""

from __future__ import annotations

import logging
import shutil
import time
from dataclasses import replace

import torch
from accelerate.utils import broadcast_object_list

from imgcls.errors import ModelError, one_line
from imgcls.models.step_timing import StepTime
from imgcls.storage import run_folder
from imgcls.system import cpu
from imgcls.training.trainer import ImageTrainer

log = logging.getLogger(__name__)

# Compiling took 30 to 80 s on two cores, and made steps 1.1 to 1.7 times faster there.
LONG_S = 600
GAIN = 1.05  # less is noise
# Trying bf16 takes some steps. On a CPU with instructions for it ResNet-18 took 0.45 of float32's time and ViT-Small
# 0.6, but MobileNetV3-Small 1.8 times as long: no rule tells which.
WORTH_TRYING_S, CLEARLY = 60, 1.15
ROUNDS, UNCLEAR = (2, 4), (0.7, 1.5)  # another process may disturb one: a second is asked, and more if unclear


def broadcast_from_rank0(value: float) -> float:
    """What the first process says: all must try the same things, or they wait for each other."""
    shared = [value]
    broadcast_object_list(shared)
    return shared[0]


def use_bf16_if_faster(trainer: ImageTrainer, pace: StepTime, seconds: float, run: run_folder.RunFolder) -> StepTime:
    """Take bf16 for the steps of a CPU where that is clearly faster; the pace from then on, of as many images.

    A few images decide as a batch does, and take less memory in float32 than a batch will in bf16.
    seconds: what the run takes in float32. What was chosen is remembered, so that a resumed run computes alike.
    """
    args = trainer.args
    if args.device.type != "cpu" or not args.tries_bf16 or not cpu.has_bf16() or not trainer.sees_images:
        return pace
    remembered = run.read_json(run_folder.PRECISION)
    if remembered is None and (seconds < WORTH_TRYING_S or run.last_checkpoint() is not None):
        return pace
    trainer.lower = torch.bfloat16
    if remembered is not None:
        trainer.lower = torch.bfloat16 if remembered["bf16"] else None
        return trainer.rehearse() if remembered["bf16"] else pace
    found = {None: [pace], torch.bfloat16: []}
    for rounds in range(1, ROUNDS[1] + 1):
        for kind in (torch.bfloat16, None):  # float32's first steps may have been slow because they were the first
            trainer.lower = kind
            found[kind].append(trainer.rehearse())
        slower, faster = (min(paces, key=lambda tried: tried.train_s) for paces in found.values())
        gain = broadcast_from_rank0(slower.train_s / faster.train_s)
        if rounds >= ROUNDS[0] and not UNCLEAR[0] < gain < UNCLEAR[1]:
            break
    trainer.lower = torch.bfloat16 if gain >= CLEARLY else None
    if args.should_save:
        run.write_json(run_folder.PRECISION, {"bf16": trainer.lower is not None})
    verdict = "taken" if trainer.lower else "left out"
    log.info("bf16: %s, %.2f times the speed of float32 here (--bf16 true or false decides)", verdict, gain)
    return _reading(faster if trainer.lower else slower, pace)


def compile_if_faster(trainer: ImageTrainer, wanted: str, pace: StepTime, seconds: float) -> StepTime:
    """Compile the trainer's network for training, if it gains; its pace from then on.

    wanted: as of --compile. seconds: what the run takes as it is. Raises ModelError when `wanted` is "on" and it cannot
    be compiled.
    """
    pays = seconds >= LONG_S and trainer.args.world_size == 1 and _has_compiler()  # processes could disagree
    if wanted == "off" or not trainer.can_compile or (wanted == "auto" and not pays):
        return pace
    pace = _reading(trainer.rehearse(whole=True), pace)
    log.info("compile: trying, which takes a minute or two (--compile off leaves it out)")
    started = time.monotonic()
    trainer.compile()
    try:
        faster = _reading(trainer.rehearse(whole=True), pace)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # compilers of all kinds raise all kinds
        trainer.drop_compiled()
        reason = one_line(error)
        if wanted == "on":
            raise ModelError(
                f"Expected a network that torch.compile takes, got: {reason}. Give --compile off."
            ) from error
        log.info("compile: left out, since torch.compile failed: %s", reason)
        return pace
    gain = pace.train_s / faster.train_s
    took = time.monotonic() - started
    if wanted == "auto" and gain < GAIN:
        trainer.drop_compiled()
        log.info("compile: left out, %.2f times the speed after %.0f s", gain, took)
        return pace
    log.info("compile: kept, %.2f times the speed after %.0f s", gain, took)
    return faster


def _reading(pace: StepTime, first: StepTime) -> StepTime:
    """A pace with what reading took in the first rehearsal: later ones find photos that are kept."""
    return replace(pace, read_s=first.read_s, read_evaluated_s=first.read_evaluated_s)


def _has_compiler() -> bool:
    """Whether there is what torch.compile needs: on a GPU it brings its own, on a CPU the system's is used."""
    return torch.accelerator.is_available() or any(map(shutil.which, ("c++", "g++", "clang++", "cl")))
