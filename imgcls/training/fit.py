"""A training to its end, through kills and lack of memory: from the last whole checkpoint, with half the batch."""

from __future__ import annotations

import gc
import json
import logging
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from transformers import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from imgcls.config.training_options import TrainingOptions
from imgcls.errors import LaunchError, ModelError
from imgcls.evaluation import diagnosis
from imgcls.models.step_timing import StepTime
from imgcls.storage import atomic_file, run_folder
from imgcls.system import hardware
from imgcls.training import acceleration
from imgcls.training.trainer import ImageTrainer

log = logging.getLogger(__name__)


def fit(
    make_trainer: Callable[[int, int], ImageTrainer],
    args: TrainingOptions,
    run: run_folder.RunFolder,
    compile: str = "off",
) -> ImageTrainer:
    """Train to the end, from the last whole checkpoint if there is one; the returned trainer holds the best model.

    make_trainer: (batch, accumulation) -> a trainer in its initial state. When a batch does not fit, all ranks
    start again from there (or the last checkpoint) with half of it and twice the accumulation, so the effective
    batch stays; the size is remembered for resuming.
    """
    if args.should_save:
        shutil.rmtree(run / run_folder.PARTIAL, ignore_errors=True)
    remembered = run.read_json(run_folder.BATCH) or {}
    batch = remembered.get("batch", args.per_device_train_batch_size)
    accumulation = remembered.get("accumulation", args.gradient_accumulation_steps)
    while True:
        trainer = make_trainer(batch, accumulation)
        try:
            _train(trainer, run, compile)
            return trainer
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            rehearsed = "rehearsed" in str(error)
        batch, accumulation = halve_batch(batch, accumulation)
        if args.should_save or not rehearsed:
            run.write_json(run_folder.BATCH, {"batch": batch, "accumulation": accumulation})
        log.info(diagnosis.in_words(diagnosis.out_of_memory(batch, accumulation)))
        if args.world_size > 1 and not rehearsed:
            raise LaunchError(
                f"One of {args.world_size} processes ran out of memory amid training. Give the same command again: it "
                f"goes on from the last checkpoint with batch {batch}."
            )
        del trainer
        gc.collect()
        clear_device_cache()


def halve_batch(batch: int, accumulation: int) -> tuple[int, int]:
    """The largest batch of at most half that divides the effective one, and its accumulation."""
    effective = batch * accumulation
    for smaller in range(batch // 2, 0, -1):
        if effective % smaller == 0:
            return smaller, effective // smaller
    raise ModelError(
        "Expected one image at a time to fit in memory, got an error. Take a smaller --model or --image_px."
    )


def _train(trainer: ImageTrainer, run: run_folder.RunFolder, compile: str) -> None:
    checkpoint = run.last_checkpoint()
    state = None if checkpoint is None else _relocated_state(checkpoint, run)
    pace = trainer.rehearse()
    left = 1.0 if state is None else 1 - state.global_step / max(state.max_steps, 1)
    pace = acceleration.use_bf16_if_faster(
        trainer, pace, acceleration.broadcast_from_rank0(left * _seconds(trainer, pace)), run
    )
    with hardware.trimmed_heap():  # of memory in the pieces that the trials left
        pace = trainer.rehearse_batch(pace)
    pace = acceleration.compile_if_faster(trainer, compile, pace, left * _seconds(trainer, pace))
    if state is None:
        log.info("this will take %s", _in_words(_seconds(trainer, pace)))
        trainer.train()
        return
    log.info("going on from step %d of %d", state.global_step, state.max_steps)
    stopped = state.stateful_callbacks.get("TrainerControl", {}).get("args", {}).get("should_training_stop")
    if stopped:  # killed between its last checkpoint and the end: train() would take one step more
        trainer.state = state
        trainer._load_best_model()
    else:
        trainer._logged = (state.global_step, time.monotonic())
        trainer.train(resume_from_checkpoint=str(checkpoint))


def _relocated_state(checkpoint: Path, run: run_folder.RunFolder) -> TrainerState:
    """The checkpoint's state, with the best checkpoint's path as of now: the run folder may have been moved."""
    file = checkpoint / "trainer_state.json"
    state = TrainerState.load_from_json(str(file))
    if state.best_global_step:
        best = run / run_folder.CHECKPOINTS / f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}"
        state.best_model_checkpoint = str(best)
        with atomic_file.atomic_write(file) as out:
            out.write((json.dumps({**json.loads(file.read_text()), "best_model_checkpoint": str(best)})).encode())
    return state


def _seconds(trainer: ImageTrainer, pace: StepTime) -> float:
    """What the whole run takes at a pace."""
    args = trainer.args
    images = len(trainer.train_dataset)
    steps_an_epoch = math.ceil(images / trainer.get_total_train_batch_size(args))
    epochs = args.max_steps / steps_an_epoch if args.max_steps > 0 else args.num_train_epochs
    evaluated = len(trainer.eval_dataset) * (epochs / args.eval_every_epochs + 1)
    readers = max(1, args.dataloader_num_workers)
    read = pace.seconds(0, 0, images, len(trainer.eval_dataset)) / readers
    return (pace.seconds(images * epochs, evaluated) + read) / args.world_size


def _in_words(seconds: float) -> str:
    minutes = seconds / 60
    return (
        "less than a minute"
        if minutes < 1
        else f"about {minutes:.0f} min"
        if minutes < 90
        else f"about {minutes / 60:.1f} h"
    )
