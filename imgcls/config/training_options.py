"""Options of training: TrainingArguments in users' words, with defaults that suit images."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

import torch
from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_utils import HubStrategy

from imgcls.config.fields import option
from imgcls.errors import OptionError, nearest

# Training options that the short help lists, in our words where transformers' own are long.
SHORT_HELP = {
    "output_dir": "",
    "num_train_epochs": "",
    "per_device_train_batch_size": "",
    "learning_rate": "",
    "eval_every_epochs": "",
    "early_stopping_patience": "",
    "class_weights": "",
    "sampler": "",
    "label_smoothing_factor": "share of each label that is spread over all classes (default: by recipe)",
    "weight_decay": "of AdamW, on matrices only (default: by recipe)",
    "gradient_accumulation_steps": "batches added up before each optimizer step: a larger batch in the same memory",
    "max_steps": "optimizer steps, instead of --epochs",
    "metric_for_best_model": "",
    "bf16": "",
    "fp16": "mixed precision of older GPUs; chosen by itself there",
    "seed": "of everything random: split, weights, order, augmentation (default: 42)",
    "dataloader_num_workers": "processes that read images (default: by machine)",
    "push_to_hub": "push the finished run to the Hub, with a model card; token, name and right are checked first",
    "hub_model_id": "repository to push to, owner/name (default: the run's name, of your own)",
    "hub_private_repo": "true: make the repository a private one",
    "report_to": "tensorboard, wandb, ...: where else the numbers go (default: nowhere)",
}
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
class TrainingOptions(TrainingArguments):
    """TrainingArguments with users' words as aliases, three options more, and defaults that suit images."""

    _argument_group_name = "training"
    lists_named_only = True  # the short help lists those of SHOWN, not TrainingArguments' hundred

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
    metric_for_best_model: str | None = option(
        None,
        "accuracy, macro_f1, balanced_accuracy, top5_accuracy, loss or ece of the validation images; among models "
        "within one standard error of the highest share the latest is kept (default: by recipe)",
    )
    class_weights: Literal["none", "balanced"] = option(
        "none", "balanced: images of rare classes count more in the loss (default: by recipe)"
    )
    focal: float = option(
        0.0, "focal loss: exponent that makes the loss of images already recognised count less; usual: 2 (default: off)"
    )
    sampler: Literal["shuffle", "balanced"] = option(
        "shuffle", "balanced: each epoch draws all classes equally often, images of rare ones several times"
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
    hub_strategy: str = option("end", "end, or every_save: the model of each checkpoint too, while training goes on")
    hub_check: Literal["on", "off"] = option(
        "on", "off: train even when the Hub cannot be reached now; it is asked at the end"
    )
    log_on_each_node: bool = option(False, "every machine prints, and not the first alone")
    bf16: bool | None = option(None, "mixed precision (default: by the GPU's kind; on a CPU tried with the network)")
    logging_nan_inf_filter: bool = option(False, "true: hide losses that are no numbers, and wait for each step's")
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
        if self.focal < 0:
            raise OptionError(f"Expected --focal of 0 or more, got {self.focal}. Usual: 2.")
        if self.sampler == "balanced" and self.class_weights == "balanced":
            raise OptionError(
                "Expected --sampler balanced or --class_weights balanced, got both. Rare classes would count twice."
            )
        if self.metric_for_best_model is not None and self.metric_for_best_model not in METRICS:
            raise OptionError(
                f"Expected --metric_for_best_model one of {', '.join(METRICS)}, got {self.metric_for_best_model!r}. "
                f"Nearest: {nearest(self.metric_for_best_model, METRICS, 1)[0]}."
            )
        if self.metric_for_best_model is not None and self.greater_is_better is None:
            self.greater_is_better = METRICS[self.metric_for_best_model]
        self.tries_bf16 = self.bf16 is None
        self.bf16 = bool(self.bf16)
        if self.accelerator_config is None and torch.cuda.is_available():
            # The host goes ahead while a batch is copied. On MPS torch before 2.13 might copy what was freed meanwhile.
            self.accelerator_config = {"non_blocking": True}
        super().__post_init__()
        self._check_report_to()
        self._check_hub()

    def _check_report_to(self) -> None:
        """Raises OptionError for a place of --report_to whose package is not installed."""
        for name in self.report_to:
            if name not in INTEGRATION_TO_CALLBACK:
                close = ", ".join(nearest(name, INTEGRATION_TO_CALLBACK))
                raise OptionError(f"Expected a place that transformers can report to, got {name!r}. Nearest: {close}.")
            if name != "flyte" and name not in get_available_reporting_integrations():  # which it cannot look for
                package = {"comet_ml": "comet-ml", "azure_ml": "azureml-mlflow"}.get(name, name)
                raise OptionError(f"Expected the package of --report_to, got none for {name}: pip install {package}")

    def _check_hub(self) -> None:
        """Raises OptionError for a way to push that is not ours."""
        if self.hub_strategy not in (HubStrategy.END, HubStrategy.EVERY_SAVE):
            raise OptionError(
                f"Expected --hub_strategy end or every_save, got {self.hub_strategy.value}: checkpoints, with the "
                "state of the optimizer, stay on this machine."
            )
        if self.hub_revision or self.hub_always_push:
            raise OptionError("Expected no --hub_revision and no --hub_always_push: pushes go to main, one at a time.")
        if self.hub_check == "off" and self.hub_strategy == HubStrategy.EVERY_SAVE:
            raise OptionError("Expected --hub_strategy end with --hub_check off, got every_save, which needs the Hub.")

    def in_force(self) -> dict:
        """All options as plain values for options.yaml, the folder's own name and secrets left out."""
        left_out = ("output_dir", "accelerator_config", "parallelism_config", "fsdp_config", "deepspeed")
        values = json.loads(self.to_json_string())
        values["bf16"] = None if self.tries_bf16 else self.bf16
        return {k: v for k, v in values.items() if k not in left_out and not k.endswith("token")}
