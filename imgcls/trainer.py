"""Options, data and model -> a `transformers.Trainer` that trains them, goes on after a kill, and fits in memory."""

from __future__ import annotations

import gc
import json
import logging
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from transformers import EarlyStoppingCallback, Trainer, TrainerState, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from imgcls import artifacts, losses, model
from imgcls.checkpoints import CHECKPOINTS
from imgcls.dataset import Division
from imgcls.errors import LaunchError, ModelError, OptionError, RunError, nearest
from imgcls.metrics import ImageClassification
from imgcls.model import Classifier, Source
from imgcls.options import AugmentOptions, ModelOptions, option
from imgcls.progress import EvaluateEveryEpochs, History, Progress, Stopwatch
from imgcls.rehearsal import Pace, rehearse
from imgcls.transforms import PLANS, DeviceHalf, EpochSampler, EvaluationView, TrainingView, collate

log = logging.getLogger(__name__)

# Training options that the short help lists.
SHOWN = [
    "output_dir",
    "num_train_epochs",
    "per_device_train_batch_size",
    "learning_rate",
    "eval_every_epochs",
    "early_stopping_patience",
    "class_weights",
    "label_smoothing_factor",
    "gradient_accumulation_steps",
    "max_steps",
    "metric_for_best_model",
    "weight_decay",
    "warmup_steps",
    "lr_scheduler_type",
    "bf16",
    "fp16",
    "seed",
    "dataloader_num_workers",
    "save_total_limit",
    "report_to",
]
KNOWN_TYPES = {c.config["model_type"] for c in CHECKPOINTS.values()}
# Numbers of each evaluation during training, and whether more is better.
METRICS = {
    "accuracy": True,
    "loss": False,
    "macro_f1": True,
    "balanced_accuracy": True,
    "top5_accuracy": True,
    "ece": False,
}


@dataclass
class TrainOptions(TrainingArguments):
    """TrainingArguments with users' words as aliases, three options more, and defaults that suit images."""

    _argument_group_name = "training"

    output_dir: str | None = option(None, "the run folder (default: runs/<data>-<model>)")
    num_train_epochs: float = option(3.0, "passes over the training images (default: by recipe)", "--epochs")
    per_device_train_batch_size: int = option(
        16,
        "images a step and device; halved by itself when memory is short (default: by recipe)",
        "--batch_size",
    )
    learning_rate: float = option(5e-5, "highest learning rate of AdamW (default: by recipe)", "--lr")
    eval_every_epochs: int = option(1, "evaluate and save after every N-th epoch, and after the last")
    early_stopping_patience: int | None = option(
        None, "stop after this many evaluations without a better one (default: never)"
    )
    class_weights: Literal["none", "balanced"] = option(
        "none", "balanced: images of rare classes count more in the loss"
    )
    per_device_eval_batch_size: int = option(32, "images an evaluation step and device")
    lr_scheduler_type: str = option("cosine", "course of the learning rate after warm-up")
    warmup_steps: float = option(0.1, "steps of rising learning rate; below 1: share of all steps")
    logging_steps: float = option(0.02, "log every so many steps; below 1: share of all steps")
    eval_strategy: str = option("epoch", "epoch (see --eval_every_epochs), or steps with --eval_steps")
    save_strategy: str = option("epoch", "as --eval_strategy, so that the best model is always one that was saved")
    save_total_limit: int | None = option(2, "checkpoints kept: the last, for going on, and the best")
    load_best_model_at_end: bool = option(True, "the run folder gets the best model, not the last")
    batch_eval_metrics: bool = option(True, "evaluate in a stream: memory does not grow with the images")
    restore_callback_states_from_checkpoint: bool = option(True, "a resumed run keeps its early-stopping count")
    remove_unused_columns: bool = option(False, "samples hold more than the model's arguments")

    def __post_init__(self):
        if self.eval_every_epochs < 1:
            raise OptionError(f"Expected --eval_every_epochs of 1 or more, got {self.eval_every_epochs}.")
        if self.num_train_epochs <= 0 and self.max_steps <= 0:
            raise OptionError(f"Expected --epochs above 0, got {self.num_train_epochs}.")
        if self.per_device_train_batch_size < 1 or self.gradient_accumulation_steps < 1:
            raise OptionError("Expected --batch_size and --gradient_accumulation_steps of 1 or more.")
        if self.learning_rate <= 0:
            raise OptionError(f"Expected --lr above 0, got {self.learning_rate}. Usual: 1e-5 to 1e-3.")
        if self.metric_for_best_model is not None and self.metric_for_best_model not in METRICS:
            raise OptionError(
                f"Expected --metric_for_best_model one of {', '.join(METRICS)}, got {self.metric_for_best_model!r}. "
                f"Nearest: {nearest(self.metric_for_best_model, METRICS, 1)[0]}."
            )
        if self.metric_for_best_model is not None and self.greater_is_better is None:
            self.greater_is_better = METRICS[self.metric_for_best_model]
        super().__post_init__()

    def in_force(self) -> dict:
        """All options as plain values for options.yaml, the folder's own name and secrets left out."""
        left_out = ("output_dir", "accelerator_config", "parallelism_config", "fsdp_config", "deepspeed")
        values = json.loads(self.to_json_string())
        return {k: v for k, v in values.items() if k not in left_out and not k.endswith("token")}


class ImageTrainer(Trainer):
    """Trainer over uint8 batches with device-side augmentation, one loss for all models and whole checkpoints."""

    def __init__(
        self,
        classifier: Classifier,
        args: TrainOptions,
        train: TrainingView,
        validation: EvaluationView,
        classes: list[str],
        loss: losses.ClassificationLoss,
        run: artifacts.RunFolder,
        is_demo: bool = False,
    ):
        self.run, self.classifier, self.is_demo = run, classifier, is_demo
        self.device_half = DeviceHalf(train.processor, train.plan, train.px)
        self.layout = memory_layout(classifier)
        self.metric = ImageClassification(classes)
        callbacks = [Stopwatch(), History(run), Progress(show_bar=not args.disable_tqdm)]
        if args.eval_strategy == "epoch":
            callbacks.append(EvaluateEveryEpochs(args.eval_every_epochs))
        if args.early_stopping_patience is not None:
            callbacks.append(EarlyStoppingCallback(args.early_stopping_patience))
        super().__init__(
            model=classifier.network.to(memory_format=self.layout),
            args=args,
            data_collator=collate,
            train_dataset=train,
            eval_dataset=validation,
            compute_loss_func=loss,
            compute_metrics=self._metrics,
            callbacks=callbacks,
        )
        # ResNet and EfficientNet take **kwargs, so Trainer would hand them num_items_in_batch, which they ignore.
        self.model_accepts_loss_kwargs = False
        self.remove_callback(PrinterCallback if args.disable_tqdm else ProgressCallback)
        self._logged = (0, time.monotonic())
        self._saving = False

    def _metrics(self, prediction, compute_result: bool = True) -> dict:
        self.metric.add_batch(predictions=prediction.predictions, references=prediction.label_ids)
        if not compute_result:
            return {}
        found = self.metric.compute()
        return {name: found[name] for name in METRICS}

    def _get_train_sampler(self, train_dataset=None) -> EpochSampler:
        data_seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
        self.sampler = EpochSampler(len(self.train_dataset), self._train_batch_size * self.args.world_size, data_seed)
        return self.sampler

    def _run_epoch(self, *, epoch: int, **kwargs):
        # Trainer's own set_epoch does not reach the sampler once batches are skipped in several processes.
        self.sampler.epoch = epoch
        return super()._run_epoch(epoch=epoch, **kwargs)

    def _prepare_inputs(self, inputs: dict) -> dict:
        inputs = super()._prepare_inputs(inputs)
        draws = inputs.pop("draws", None)
        if draws is not None:
            inputs["pixel_values"] = self.device_half(inputs["pixel_values"], draws)
        inputs["pixel_values"] = inputs["pixel_values"].contiguous(memory_format=self.layout)
        return inputs

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """(None, logits, labels): evaluation's loss is plain cross-entropy from the logits, not the training loss."""
        inputs = self._prepare_inputs(inputs)
        labels = inputs.pop("labels")
        with torch.no_grad():
            logits = model(**inputs).logits
        return None, logits.float(), labels

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add images_per_second to training logs."""
        if "loss" in logs:
            step, now = self.state.global_step, time.monotonic()
            images = (step - self._logged[0]) * self.get_total_train_batch_size(self.args)
            logs["images_per_second"] = round(images / (now - self._logged[1]), 1)
            self._logged = (step, now)
        super().log(logs, start_time)

    def _get_output_dir(self, trial) -> str:
        return str(self.run / (artifacts.PARTIAL if self._saving else artifacts.CHECKPOINTS))

    def _save_checkpoint(self, model, trial) -> None:
        """Save beside, then rename: a checkpoint that bears its name is whole, whenever the process is killed."""
        folder, beside = self.run / artifacts.CHECKPOINTS, self.run / artifacts.PARTIAL
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        self._saving = True
        try:
            super()._save_checkpoint(model, trial)
        except Exception as error:  # a full disk is OSError, RuntimeError or SafetensorError, by who was writing
            shutil.rmtree(beside, ignore_errors=True)
            needed, free = 12 * self.model.num_parameters(), shutil.disk_usage(self.run.path).free
            if free > 1.1 * needed:
                raise
            raise RunError(
                f"Expected {needed / 1e6:.0f} MB for a checkpoint in {folder}, got {free / 1e6:.0f} MB free. Make room "
                "and give the same command again: it goes on from the last checkpoint."
            ) from error
        finally:
            self._saving = False
        if self.state.best_global_step:
            self.state.best_model_checkpoint = str(folder / f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}")
        self.accelerator.wait_for_everyone()  # every rank writes its random state
        if self.args.should_save:
            self.state.save_to_json(str(beside / name / "trainer_state.json"))
            shutil.rmtree(folder / name, ignore_errors=True)
            (beside / name).rename(folder / name)
            rotate_checkpoints(str(folder), self.args.save_total_limit, self.state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()

    def rehearse(self) -> Pace:
        """One step that leaves no trace. Raises out-of-memory errors, on all ranks when one meets it."""

        def step(samples: list) -> torch.Tensor:
            inputs = self._prepare_inputs(collate(samples))
            labels = inputs.pop("labels")
            with torch.autocast(self.args.device.type, dtype, enabled=dtype is not None):
                return self.compute_loss_func(self.model(**inputs), labels)

        dtype = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else None
        failure = None
        try:
            pace = rehearse(
                self.model,
                step,
                self.train_dataset,
                self.eval_dataset,
                self._train_batch_size,
                self.args.device,
            )
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            failure = error
        failed = self.accelerator.gather(torch.tensor([failure is not None], device=self.args.device))
        if failed.any():
            raise torch.OutOfMemoryError("a rehearsed step did not fit") from failure
        return pace


def memory_layout(classifier: Classifier) -> torch.memory_format:
    """channels_last for CNNs (1.04 to 1.3 times faster on a CPU), the ordinary one for transformers.

    Also the ordinary one for networks with a spatial convolution of fewer than 16 channels: torch 2.15's backward
    pass corrupts memory there (8 channels: "free(): invalid next size").
    """
    convolutions = [m for m in classifier.network.modules() if isinstance(m, torch.nn.Conv2d)]
    narrow = any(m.out_channels < 16 and m.kernel_size[0] > 1 for m in convolutions)
    return torch.channels_last if classifier.family == "cnn" and not narrow else torch.contiguous_format


def maker(
    source: Source,
    model_options: ModelOptions,
    augment: AugmentOptions,
    args: TrainOptions,
    division: Division,
    run: artifacts.RunFolder,
    *,
    from_scratch: bool,
    is_demo: bool,
) -> Callable[[int, int], ImageTrainer]:
    """A function (batch, accumulation) -> ImageTrainer that starts from the same initial state at every call."""
    plan = replace(PLANS[augment.augment], flip=augment.flip)

    def make(batch: int, accumulation: int) -> ImageTrainer:
        set_seed(args.seed)
        classifier = model.build(source, division.classes, from_scratch=from_scratch, image_px=model_options.image_px)
        for note in classifier.notes:
            log.info("model: %s", note)
        args.per_device_train_batch_size, args.gradient_accumulation_steps = batch, accumulation
        if args.ddp_find_unused_parameters is None and classifier.network.config.model_type in KNOWN_TYPES:
            args.ddp_find_unused_parameters = False  # they use all; looking for others costs time and a warning
        labels = division.rows["train"]["label"]
        weights = None
        if args.class_weights == "balanced":
            weights = losses.balanced_weights(labels, len(division.classes)).to(args.device)
        return ImageTrainer(
            classifier,
            args,
            TrainingView(division.rows["train"], classifier.processor, plan, classifier.image_px, args.seed),
            EvaluationView(division.rows["validation"], classifier.processor),
            division.classes,
            losses.ClassificationLoss(weights, args.label_smoothing_factor),
            run,
            is_demo,
        )

    return make


def fit(make_trainer: Callable[[int, int], ImageTrainer], args: TrainOptions, run: artifacts.RunFolder) -> ImageTrainer:
    """Train to the end, from the last whole checkpoint if there is one; the returned trainer holds the best model.

    make_trainer: (batch, accumulation) -> a trainer in its initial state. When a batch does not fit, all ranks
    start again from there (or the last checkpoint) with half of it and twice the accumulation, so the effective
    batch stays; the size is remembered for resuming.
    """
    if args.should_save:
        shutil.rmtree(run / artifacts.PARTIAL, ignore_errors=True)
    remembered = run.read_json(artifacts.BATCH) or {}
    batch = remembered.get("batch", args.per_device_train_batch_size)
    accumulation = remembered.get("accumulation", args.gradient_accumulation_steps)
    while True:
        trainer = make_trainer(batch, accumulation)
        try:
            _train(trainer, run)
            return trainer
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            rehearsed = "rehearsed" in str(error)
        batch, accumulation = halved(batch, accumulation)
        if args.should_save or not rehearsed:
            run.write_json(artifacts.BATCH, {"batch": batch, "accumulation": accumulation})
        log.info(
            "out of memory: batch %d x %d accumulated from here on (the same effective batch)",
            batch,
            accumulation,
        )
        if args.world_size > 1 and not rehearsed:
            raise LaunchError(
                f"One of {args.world_size} processes ran out of memory amid training. Give the same command again: it "
                f"goes on from the last checkpoint with batch {batch}."
            )
        del trainer
        gc.collect()
        clear_device_cache()


def halved(batch: int, accumulation: int) -> tuple[int, int]:
    """The largest batch of at most half that divides the effective one, and its accumulation."""
    effective = batch * accumulation
    for smaller in range(batch // 2, 0, -1):
        if effective % smaller == 0:
            return smaller, effective // smaller
    raise ModelError(
        "Expected one image at a time to fit in memory, got an error. Take a smaller --model or --image_px."
    )


def _train(trainer: ImageTrainer, run: artifacts.RunFolder) -> None:
    checkpoint = run.last_checkpoint()
    pace = trainer.rehearse()
    if checkpoint is None:
        log.info("this will take %s", _estimate(trainer, pace))
        trainer.train()
        return
    state = _relocated_state(checkpoint, run)
    log.info("going on from step %d of %d", state.global_step, state.max_steps)
    stopped = state.stateful_callbacks.get("TrainerControl", {}).get("args", {}).get("should_training_stop")
    if stopped:  # killed between its last checkpoint and the end: train() would take one step more
        trainer.state = state
        trainer._load_best_model()
    else:
        trainer._logged = (state.global_step, time.monotonic())
        trainer.train(resume_from_checkpoint=str(checkpoint))


def _relocated_state(checkpoint: Path, run: artifacts.RunFolder) -> TrainerState:
    """The checkpoint's state, with the best checkpoint's path as of now: the run folder may have been moved."""
    file = checkpoint / "trainer_state.json"
    state = TrainerState.load_from_json(str(file))
    if state.best_global_step:
        best = run / artifacts.CHECKPOINTS / f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}"
        state.best_model_checkpoint = str(best)
        with artifacts.whole_file(file) as out:
            out.write((json.dumps({**json.loads(file.read_text()), "best_model_checkpoint": str(best)})).encode())
    return state


def _estimate(trainer: ImageTrainer, pace: Pace) -> str:
    args = trainer.args
    images = len(trainer.train_dataset)
    steps_an_epoch = math.ceil(images / trainer.get_total_train_batch_size(args))
    epochs = args.max_steps / steps_an_epoch if args.max_steps > 0 else args.num_train_epochs
    evaluated = len(trainer.eval_dataset) * (epochs / args.eval_every_epochs + 1)
    minutes = pace.seconds(images * epochs, evaluated) / args.world_size / 60
    return (
        "less than a minute"
        if minutes < 1
        else f"about {minutes:.0f} min"
        if minutes < 90
        else f"about {minutes / 60:.1f} h"
    )


def disk_bytes(source: Source, kept: int | None) -> int:
    """Room that a run needs, as far as it is known before a download.

    float32 weights in the root; weights and two AdamW moments in each kept checkpoint and in the one being written.
    """
    weights = 4 * source.checkpoint.parameters if source.checkpoint else 0
    if source.folder is not None:
        weights = sum(file.stat().st_size for file in source.folder.glob("*.safetensors"))
    return weights * (1 + 3 * ((kept or 10) + 1))
