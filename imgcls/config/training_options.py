"""Options of training: TrainingArguments in users' words, with defaults that suit images."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations
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
    "label_smoothing_factor": "fraction of each label spread evenly over all classes (default: by recipe)",
    "weight_decay": "AdamW weight decay, applied to weight matrices only (default: by recipe)",
    "gradient_accumulation_steps": "batches accumulated before each optimizer step: a larger batch in the same memory",
    "max_steps": "optimizer steps, instead of --epochs",
    "metric_for_best_model": "",
    "bf16": "",
    "fp16": "mixed precision of older GPUs (default there)",
    "seed": "random seed of the split, weights, order and augmentation (default: 42)",
    "dataloader_num_workers": "number of processes that read images (default: by machine)",
    "push_to_hub": "push the finished run to the Hub, with a model card; permission is checked before training",
    "hub_model_id": "repository to push to, owner/name (default: the run's name, under your account)",
    "hub_private_repo": "true: create a private repository",
    "report_to": "tensorboard, wandb, ...: where else metrics are reported (default: nowhere)",
}
# Metrics of each evaluation during training, and whether greater is better.
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
    """TrainingArguments with short aliases, five more options, and defaults that suit images."""

    _argument_group_name = "training"
    lists_named_only = True  # --help lists those of SHORT_HELP, not all of TrainingArguments

    output_dir: str | None = option(None, "the run folder (default: runs/<data>-<model>)")
    num_train_epochs: float = option(3.0, "passes over the training images (default: by recipe)", "--epochs")
    per_device_train_batch_size: int = option(
        16,
        "images per step and device; halved automatically when memory runs out (default: by recipe)",
        "--batch_size",
    )
    learning_rate: float = option(5e-5, "highest learning rate of AdamW (default: by recipe)", "--lr")
    eval_every_epochs: int = option(1, "evaluate and save after every N-th epoch and after the last")
    early_stopping_patience: int | None = option(
        None, "stop after this many evaluations without improvement (default: never)"
    )
    metric_for_best_model: str | None = option(
        None,
        "accuracy, macro_f1, balanced_accuracy, top5_accuracy, loss or ece on the validation set; among models within "
        "one standard error of the best, the latest is kept (default: by recipe)",
    )
    class_weights: Literal["none", "balanced"] = option(
        "none", "balanced: images of rare classes weigh more in the loss (default: by recipe)"
    )
    focal: float = option(
        0.0, "focal loss: exponent that down-weights images already classified well, e.g. 2 (default: off)"
    )
    sampler: Literal["shuffle", "balanced"] = option(
        "shuffle", "balanced: each epoch samples all classes equally often, images of rare classes several times"
    )
    per_device_eval_batch_size: int = option(32, "images per evaluation step and device")
    lr_scheduler_type: str = option("cosine", "learning-rate schedule after warm-up")
    warmup_steps: float = option(0.1, "steps of linear warm-up; below 1: fraction of all steps")
    logging_steps: float = option(0.02, "log every N steps; below 1: fraction of all steps")
    eval_strategy: str = option("epoch", "epoch (see --eval_every_epochs), or steps with --eval_steps")
    save_strategy: str = option("epoch", "as --eval_strategy, so that the best model is always saved")
    save_total_limit: int | None = option(2, "number of checkpoints kept: the last, to resume from, and the best")
    load_best_model_at_end: bool = option(True, "save the best model in the run folder, not the last")
    batch_eval_metrics: bool = option(True, "evaluate batch by batch: memory does not grow with the number of images")
    restore_callback_states_from_checkpoint: bool = option(True, "a resumed run continues its early-stopping count")
    hub_strategy: str = option("end", "end, or every_save: also push the model of each checkpoint during training")
    hub_check: Literal["on", "off"] = option("on", "off: train even if the Hub cannot be reached now; push at the end")
    log_on_each_node: bool = option(False, "print on every machine, not only on the first")
    bf16: bool | None = option(None, "mixed precision (default: by the kind of GPU; on a CPU by a short trial)")
    logging_nan_inf_filter: bool = option(
        False, "replace NaN and infinite losses in the logs (synchronises with the GPU every step)"
    )
    remove_unused_columns: bool = option(False, "keep columns that the model does not take")

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
                "Expected --sampler balanced or --class_weights balanced, got both: rare classes would count twice."
            )
        if self.metric_for_best_model is not None and self.metric_for_best_model not in METRICS:
            raise OptionError(
                f"Expected --metric_for_best_model one of {', '.join(METRICS)}, got {self.metric_for_best_model!r}. "
                f"Nearest: {nearest(self.metric_for_best_model, METRICS, 1)[0]}."
            )
        if self.metric_for_best_model is not None and self.greater_is_better is None:
            self.greater_is_better = METRICS[self.metric_for_best_model]
        self.tries_bf16 = self.bf16 is None
        self.bf16 = bool(self.bf16)  # pyright: ignore[reportIncompatibleVariableOverride]
        if self.accelerator_config is None and torch.cuda.is_available():
            # Copies overlap with computation. On MPS, torch before 2.13 might copy memory that was freed meanwhile.
            self.accelerator_config = {"non_blocking": True}
        super().__post_init__()
        self._check_report_to()
        self._check_hub()

    def _check_report_to(self) -> None:
        """Raises OptionError for a service of --report_to whose package is not installed."""
        for name in self.report_to or ():
            if name not in INTEGRATION_TO_CALLBACK:
                close = ", ".join(nearest(name, INTEGRATION_TO_CALLBACK))
                raise OptionError(
                    f"Expected --report_to a service that transformers can report to, got {name!r}. Nearest: {close}."
                )
            if (
                name != "flyte" and name not in get_available_reporting_integrations()
            ):  # whose package transformers cannot look up
                package = {"comet_ml": "comet-ml", "azure_ml": "azureml-mlflow"}.get(name, name)
                raise OptionError(
                    f"Expected the package of --report_to {name}, got none. Install it: pip install {package}"
                )

    def _check_hub(self) -> None:
        """Raises OptionError for a way to push that is not supported."""
        if self.hub_strategy not in (HubStrategy.END, HubStrategy.EVERY_SAVE):
            raise OptionError(
                f"Expected --hub_strategy end or every_save, got {HubStrategy(self.hub_strategy).value}: "
                "checkpoints, with the state of the optimizer, are not pushed."
            )
        if self.hub_revision or self.hub_always_push:
            raise OptionError(
                "Expected no --hub_revision and no --hub_always_push, got one. Pushes go to main, one at a time."
            )
        if self.hub_check == "off" and self.hub_strategy == HubStrategy.EVERY_SAVE:
            raise OptionError("Expected --hub_strategy end with --hub_check off, got every_save, which needs the Hub.")

    def option_values(self) -> dict[str, Any]:
        """All options as plain values for options.yaml, without the folder's name and without secrets."""
        omitted = ("output_dir", "accelerator_config", "parallelism_config", "fsdp_config", "deepspeed")
        values = json.loads(self.to_json_string())
        values["bf16"] = None if self.tries_bf16 else self.bf16
        return {name: v for name, v in values.items() if name not in omitted and not name.endswith("token")}
