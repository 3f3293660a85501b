"""Train to the end: resume from the last checkpoint after a kill, halve the batch when memory runs out."""

from __future__ import annotations

import gc
import json
import logging
import math
import shutil
from collections.abc import Callable
from pathlib import Path

from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from imgcls.config.training_options import TrainingOptions
from imgcls.errors import LaunchError, ModelError
from imgcls.evaluation import diagnosis
from imgcls.models.step_timing import StepTime
from imgcls.storage import atomic_file, run_folder
from imgcls.system import hardware
from imgcls.training import acceleration
from imgcls.training.callbacks import FORMER_CLASS_NAMES
from imgcls.training.dry_run import DryRunOutOfMemoryError
from imgcls.training.trainer import ImageTrainer

log = logging.getLogger(__name__)


def fit(
    make_trainer: Callable[[int, int], ImageTrainer],
    args: TrainingOptions,
    run: run_folder.RunFolder,
    compile: str = "off",
) -> ImageTrainer:
    """Train to the end, from the last checkpoint if there is one; the returned trainer holds the best model.

    make_trainer: (batch, accumulation) -> a trainer in its initial state. When a batch does not fit in memory, all
    ranks start again from there (or the last checkpoint) with half of it and twice the accumulation steps, so the
    effective batch stays the same; the size is stored for resuming. Raises LaunchError, ModelError.
    """
    if args.should_save:
        shutil.rmtree(run / run_folder.PARTIAL, ignore_errors=True)
    stored = run.read_json(run_folder.BATCH) or {}
    batch = stored.get("batch", args.per_device_train_batch_size)
    accumulation = stored.get("accumulation", args.gradient_accumulation_steps)
    while True:
        trainer = make_trainer(batch, accumulation)
        try:
            _train(trainer, run, compile)
            return trainer
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            all_ranks_failed = isinstance(error, DryRunOutOfMemoryError)
        batch, accumulation = halve_batch(batch, accumulation)
        if args.should_save or not all_ranks_failed:
            run.write_json(run_folder.BATCH, {"batch": batch, "accumulation": accumulation})
        log.info(diagnosis.finding_text(diagnosis.out_of_memory(batch, accumulation)))
        if args.world_size > 1 and not all_ranks_failed:
            raise LaunchError(
                f"One of {args.world_size} processes ran out of memory during training. Give the same command again: "
                f"it resumes from the last checkpoint with batch {batch}."
            )
        del trainer
        gc.collect()
        clear_device_cache()


def halve_batch(batch: int, accumulation: int) -> tuple[int, int]:
    """The largest batch of at most half the size that divides the effective batch, and its accumulation steps.

    Raises ModelError for a batch of one image.
    """
    effective = batch * accumulation
    for smaller in range(batch // 2, 0, -1):
        if effective % smaller == 0:
            return smaller, effective // smaller
    raise ModelError(
        "Expected one image at a time to fit in memory, got an error. Take a smaller --model or --image_px."
    )


def _train(trainer: ImageTrainer, run: run_folder.RunFolder, compile: str) -> None:
    checkpoint = run.last_checkpoint()
    if checkpoint is None:
        step_time = _accelerate(trainer, run, compile)
        log.info("estimated training time: %s", _in_words(_run_seconds(trainer, step_time)))
        trainer.train()
        return
    state = _update_state_file(checkpoint / TRAINER_STATE_NAME, run)
    _accelerate(trainer, run, compile, remaining=1 - state["global_step"] / max(state["max_steps"], 1))
    log.info("resuming from step %d of %d", state["global_step"], state["max_steps"])
    control = state["stateful_callbacks"].get("TrainerControl", {}).get("args", {})
    if control.get("should_training_stop"):  # killed between its last checkpoint and the end: train() adds a step
        trainer.finish(checkpoint)
    else:
        trainer.train(resume_from_checkpoint=str(checkpoint))


def _accelerate(trainer: ImageTrainer, run: run_folder.RunFolder, compile: str, remaining: float = 1.0) -> StepTime:
    """Try bf16 and torch.compile where the rest of the run is long enough; returns the step time from then on.

    remaining: fraction of the run's steps that are left.
    """
    step_time = trainer.dry_run.time_step()
    seconds = acceleration.broadcast_from_rank0(remaining * _run_seconds(trainer, step_time))
    step_time = acceleration.use_bf16_if_faster(trainer, step_time, seconds, run)
    with hardware.trimmed_heap():  # the trials left memory in small pieces
        step_time = trainer.dry_run.time_full_batch(step_time)
    return acceleration.compile_if_faster(trainer, compile, step_time, remaining * _run_seconds(trainer, step_time))


def _update_state_file(file: Path, run: run_folder.RunFolder) -> dict:
    """The state in a checkpoint, with today's path of the best checkpoint and today's names of callbacks.

    The run folder may have been moved, and an earlier version of imgcls may have written the checkpoint.
    """
    stored = json.loads(file.read_text())
    callbacks = {FORMER_CLASS_NAMES.get(name, name): state for name, state in stored["stateful_callbacks"].items()}
    state = stored | {"stateful_callbacks": callbacks}
    if state["best_global_step"]:
        best = run / run_folder.CHECKPOINTS / f"{PREFIX_CHECKPOINT_DIR}-{state['best_global_step']}"
        state["best_model_checkpoint"] = str(best)
    if state != stored:
        with atomic_file.atomic_write(file) as out:
            out.write(json.dumps(state).encode())
    return state


def _run_seconds(trainer: ImageTrainer, step_time: StepTime) -> float:
    """Duration of the whole run at this step time."""
    args = trainer.args
    images = len(trainer.train_dataset)
    steps_per_epoch = math.ceil(images / trainer.get_total_train_batch_size(args))
    epochs = args.max_steps / steps_per_epoch if args.max_steps > 0 else args.num_train_epochs
    evaluated = len(trainer.eval_dataset) * (epochs / args.eval_every_epochs + 1)
    readers = max(1, args.dataloader_num_workers)
    reading_s = step_time.reading_seconds(images, len(trainer.eval_dataset)) / readers
    return (step_time.seconds(images * epochs, evaluated) + reading_s) / args.world_size


def _in_words(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 1:
        return "less than a minute"
    return f"about {minutes:.0f} min" if minutes < 90 else f"about {minutes / 60:.1f} h"
