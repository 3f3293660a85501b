"""Measure on a step of the training whether bf16 (on CPUs) and torch.compile make it faster, and use them if so."""

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
COMPILE_MIN_RUN_S = 600
COMPILE_MIN_SPEEDUP = 1.05  # less is noise
# Trying bf16 takes a few steps. On a CPU with bf16 instructions ResNet-18 took 0.45 of float32's time and ViT-Small
# 0.6, but MobileNetV3-Small 1.8 times as long: no rule predicts it.
BF16_MIN_RUN_S = 60
# Another process may slow down a single measurement: there are at least two rounds, and more while the result is close.
MIN_ROUNDS, MAX_ROUNDS = 2, 4
CLOSE_SPEEDUPS = (0.7, 1.5)


def broadcast_from_rank0(value: float) -> float:
    """The first process's value: all must try the same things, or they wait for each other."""
    values = [value]
    broadcast_object_list(values)
    return values[0]


def use_bf16_if_faster(
    trainer: ImageTrainer, step_time: StepTime, seconds: float, run: run_folder.RunFolder
) -> StepTime:
    """Use bf16 autocast for the steps of a CPU where that is clearly faster; returns the step time from then on.

    Measured on as few images as `step_time`: that decides as a batch does, and takes less memory in float32 than a
    batch will in bf16. seconds: what the run takes in float32. The decision is stored in the run folder, so that a
    resumed run computes the same.
    """
    args = trainer.args
    if args.device.type != "cpu" or not args.tries_bf16 or not cpu.has_bf16() or not trainer.trains_on_images:
        return step_time
    decided = run.read_json(run_folder.PRECISION)
    if decided is not None:
        trainer.cpu_autocast = torch.bfloat16 if decided["bf16"] else None
        return trainer.dry_run.time_step() if decided["bf16"] else step_time
    if seconds < BF16_MIN_RUN_S or run.last_checkpoint() is not None:
        return step_time
    float32, bf16, speedup = _compare_precisions(trainer, step_time)
    is_faster = speedup >= cpu.BF16_MIN_SPEEDUP
    trainer.cpu_autocast = torch.bfloat16 if is_faster else None
    if args.should_save:
        run.write_json(run_folder.PRECISION, {"bf16": is_faster})
    log.info(_precision_line(speedup))
    return _with_first_read(bf16 if is_faster else float32, step_time)


def _compare_precisions(trainer: ImageTrainer, first: StepTime) -> tuple[StepTime, StepTime, float]:
    """The fastest step in float32, the fastest in bf16, and the speedup of bf16 as rank 0 measured it.

    first: the first step in float32, which may have been slow because it was the first.
    """
    float32, bf16, rounds = first, None, 0
    while True:
        trainer.cpu_autocast = torch.bfloat16
        bf16 = _faster(trainer.dry_run.time_step(), bf16)
        trainer.cpu_autocast = None
        float32 = _faster(trainer.dry_run.time_step(), float32)
        rounds += 1
        speedup = broadcast_from_rank0(float32.train_s / bf16.train_s)
        is_close = CLOSE_SPEEDUPS[0] < speedup < CLOSE_SPEEDUPS[1]
        if rounds == MAX_ROUNDS or (rounds >= MIN_ROUNDS and not is_close):
            return float32, bf16, speedup


def _faster(one: StepTime, other: StepTime | None) -> StepTime:
    return one if other is None or one.train_s < other.train_s else other


def _precision_line(speedup: float) -> str:
    if speedup >= cpu.BF16_MIN_SPEEDUP:
        return f"using bf16 ({speedup:.2f} times as fast as float32 on this processor; --bf16 false turns it off)"
    if speedup > 1:
        return f"using float32 (bf16 is only {speedup:.2f} times as fast on this processor)"
    return f"using float32 (bf16 is slower on this processor: {speedup:.2f} times as fast)"


def compile_if_faster(trainer: ImageTrainer, choice: str, step_time: StepTime, seconds: float) -> StepTime:
    """Compile the trainer's network for training if that is faster; returns the step time from then on.

    choice: the value of --compile. seconds: what the run takes without. Raises ModelError when the network cannot be
    compiled and `choice` is "on".
    """
    # Not in several processes, which could decide differently.
    pays = seconds >= COMPILE_MIN_RUN_S and trainer.args.world_size == 1 and _has_compiler()
    if choice == "off" or not trainer.can_compile or (choice == "auto" and not pays):
        return step_time
    step_time = _with_first_read(trainer.dry_run.time_step(whole_batch=True), step_time)
    log.info("trying torch.compile, which takes a minute or two (--compile off skips it)")
    started = time.monotonic()
    trainer.compile()
    try:
        compiled = _with_first_read(trainer.dry_run.time_step(whole_batch=True), step_time)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # compilers raise errors of every kind
        trainer.undo_compile()
        reason = one_line(error)
        if choice == "on":
            raise ModelError(
                f"Expected a network that torch.compile can compile, got: {reason}. Give --compile off."
            ) from error
        log.info("not using torch.compile, which failed: %s", reason)
        return step_time
    speedup = step_time.train_s / compiled.train_s
    took = time.monotonic() - started
    if choice == "auto" and speedup < COMPILE_MIN_SPEEDUP:
        trainer.undo_compile()
        log.info("not using torch.compile: %.2f times the speed after %.0f s", speedup, took)
        return step_time
    log.info("using torch.compile: %.2f times the speed after %.0f s", speedup, took)
    return compiled


def _with_first_read(step_time: StepTime, first: StepTime) -> StepTime:
    """A step time with the reading times of the first dry run: later ones find the images in the cache."""
    return replace(step_time, train_read_s=first.train_read_s, evaluation_read_s=first.evaluation_read_s)


def _has_compiler() -> bool:
    """Whether torch.compile finds a compiler: on a GPU it brings its own, on a CPU it uses the system's."""
    return torch.accelerator.is_available() or any(map(shutil.which, ("c++", "g++", "clang++", "cl")))
