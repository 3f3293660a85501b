"""Options, data and model -> a `transformers.Trainer` with one loss, complete checkpoints and exact resume.

What imgcls changes of transformers' Trainer. Public methods:
    train, training_step     cuda_graph (a step as a CUDA graph); here: whole weights after FSDP
    create_optimizer         layer-wise learning rates, no weight decay of vectors
    prediction_step          evaluation uses the loss of the logits, and no compiled network
    evaluate                 the averaged weights, if there is an average
    log                      images per second and time spent waiting for images
    compute_loss_context_manager  bf16 on CPUs where it is faster
    floating_point_ops       0: skips the count, which walks all parameters each step
Private methods, which an upgrade of transformers may change (tests/training/test_trainer.py checks their parameters):
    _get_train_sampler       the order of an epoch is a function of seed and epoch alone
    _run_epoch               sets the sampler's epoch; moves images into GPU memory once all are cached
    _prepare_inputs          augmentation and normalisation on the device
    _determine_best_metric   checkpointing: the latest model within one standard error of the best
    _get_dataloader          checkpointing: a random generator of the loader's own, for exact resume
    _get_output_dir, _save_checkpoint       checkpointing: written next to their place, then renamed
    _load_from_checkpoint, _load_best_model checkpointing: weight names as transformers saved them, the average
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import EvalPrediction, TrainOutput

from imgcls.config.training_options import METRICS, TrainingOptions
from imgcls.dataloading.augmentation import DeviceAugmentation
from imgcls.dataloading.feature_dataset import FeatureDataset
from imgcls.dataloading.image_datasets import EvaluationDataset, TrainingDataset, collate
from imgcls.dataloading.sampler import EpochSampler
from imgcls.evaluation import diagnosis
from imgcls.evaluation.evaluate_adapter import ImageClassification
from imgcls.models import losses, param_groups
from imgcls.models.classifier import Classifier, memory_layout
from imgcls.storage import run_folder
from imgcls.system import hardware
from imgcls.training.callbacks import StopwatchCallback, make_callbacks
from imgcls.training.checkpointing import CheckpointingTrainer
from imgcls.training.diagnosis_callback import DiagnosisCallback
from imgcls.training.dry_run import DryRun
from imgcls.training.ema import EmaCallback
from imgcls.training.gpu_resident import GpuResident
from imgcls.training.throughput import ThroughputCallback


@dataclass(frozen=True)
class TrainingParts:
    """What a training is assembled from.

    module: what is trained: the classifier's network, or its head alone on cached features.
    batch_mixing: blends the images and soft labels of a batch (mixup, CutMix).
    probe_state: weights of the module with a linear probe as its head, which the trained weights are compared with.
    ema_decay: decay of a moving average of the weights, which is then evaluated and saved.
    cuda_graph: whether training steps may become CUDA graphs.
    """

    classifier: Classifier
    module: nn.Module
    train: TrainingDataset | FeatureDataset
    validation: EvaluationDataset | FeatureDataset
    loss: losses.ClassificationLoss
    learning_rates: param_groups.LearningRates
    task: diagnosis.TrainingTask
    batch_mixing: Callable | None = None
    probe_state: Mapping[str, torch.Tensor] | None = None
    ema_decay: float | None = None
    cuda_graph: bool = True


class ImageTrainer(CheckpointingTrainer):
    """Trainer on uint8 batches with augmentation on the device, one loss for all models and complete checkpoints."""

    args: TrainingOptions
    train_dataset: TrainingDataset | FeatureDataset
    eval_dataset: EvaluationDataset | FeatureDataset

    def __init__(self, parts: TrainingParts, args: TrainingOptions, run: run_folder.RunFolder):
        self.run, self.parts = run, parts
        self.classifier, self.learning_rates = parts.classifier, parts.learning_rates
        self.num_classes = len(parts.task.classes)
        self.latest_metrics: dict | None = None  # of the latest evaluation, as in metrics.json
        self.metric = ImageClassification(parts.task.classes)
        self.throughput = ThroughputCallback()
        self.diagnosis = DiagnosisCallback(parts.task, self.throughput, lambda: self.latest_metrics)
        self.memory_format = torch.contiguous_format
        self.resident: GpuResident | None = None
        cache_progress = None
        train = parts.train
        if isinstance(train, TrainingDataset):
            self.memory_format = memory_layout(parts.classifier.network)
            augmentation = DeviceAugmentation(train.spec, train.plan, self.memory_format)
            self.resident = GpuResident(train, augmentation)
            cache_progress = train.cache_progress
        super().__init__(
            model=parts.module.to(memory_format=self.memory_format),
            args=args,
            data_collator=collate,
            train_dataset=train,
            eval_dataset=parts.validation,
            compute_loss_func=parts.loss,
            compute_metrics=self._compute_metrics,
            callbacks=make_callbacks(args, run, [self.throughput, self.diagnosis], cache_progress),
        )
        if parts.ema_decay:
            self.ema = EmaCallback(parts.module, parts.ema_decay)
            self.add_callback(self.ema)
        # ResNet and EfficientNet take **kwargs, so Trainer would hand them num_items_in_batch, which they ignore.
        self.model_accepts_loss_kwargs = False
        self.remove_callback(PrinterCallback if args.disable_tqdm else ProgressCallback)
        self.captures = parts.cuda_graph
        self.cpu_autocast: torch.dtype | None = None  # set where a CPU is faster in it than in float32
        self.dry_run = DryRun(
            self.model, self._batch_loss, train, parts.validation, self._train_batch_size, self.accelerator
        )

    @property
    def trains_on_images(self) -> bool:
        """Whether a network is trained on images, not a head on cached features."""
        return self.resident is not None

    @property
    def can_compile(self) -> bool:
        """Whether a network is trained on images, and all of it in this process."""
        return self.trains_on_images and not self.is_fsdp_enabled

    @property
    def training_seconds(self) -> float:
        """Seconds spent training so far, over all restarts."""
        callbacks = self.callback_handler.callbacks  # resuming replaces the one that the constructor made
        return next(c.seconds for c in callbacks if isinstance(c, StopwatchCallback))

    def unwrapped(self) -> nn.Module:
        """What is trained, without the wrappers of several processes and mixed precision."""
        return self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)

    def train(self, *args, **kwargs) -> TrainOutput:
        """Trainer's training. Where FSDP spread the weights over processes, each has all of them afterwards."""
        whole = copy.deepcopy(self.model) if self.is_fsdp_enabled else None
        output = super().train(*args, **kwargs)
        if whole is not None:
            shards = self.model.state_dict()
            whole.load_state_dict({k: v.full_tensor() if isinstance(v, DTensor) else v for k, v in shards.items()})
            self.model = self.model_wrapped = whole.to(self.args.device)
            self.classifier.network = cast(PreTrainedModel, self.model)
        return output

    def finish(self, checkpoint: Path) -> None:
        """Take over the state of a training that took all its steps, and load its best weights, or its last."""
        self.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint is not None:
            self._load_best_model()
        else:
            self._load_from_checkpoint(str(checkpoint))

    def reset_to(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Give the module these weights, and start the average of weights from them."""
        self.parts.module.load_state_dict(weights)
        if self.ema:
            self.ema.reset_to(weights)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Trainer's optimizer with layer-wise learning rates, and no weight decay of vectors."""
        if self.optimizer is None:
            optimizer_class, settings = self.get_optimizer_cls_and_kwargs(self.args, cast(PreTrainedModel, self.model))
            groups = param_groups.parameter_groups(
                self.model, self.learning_rates, self.args.learning_rate, self.args.weight_decay
            )
            self.optimizer = optimizer_class(groups, **settings)
        return self.optimizer

    def _compute_metrics(self, prediction: EvalPrediction, compute_result: bool = True) -> dict:
        self.metric.add_batch(predictions=prediction.predictions, references=prediction.label_ids)
        if not compute_result:
            return {}
        self.latest_metrics = self.metric.compute()
        return {name: self.latest_metrics[name] for name in METRICS}

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> EpochSampler:
        data_seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
        images_per_step = self._train_batch_size * self.args.world_size
        weights = None
        if self.args.sampler == "balanced":
            labels = self.train_dataset.labels
            weights = losses.balanced_class_weights(labels, self.num_classes)[labels]
        self.sampler = EpochSampler(len(self.train_dataset), images_per_step, data_seed, weights)
        return self.sampler

    def _run_epoch(self, *, epoch: int, train_dataloader: DataLoader, **kwargs) -> Any:
        if self.resident is not None:
            train_dataloader = self._resident_batches(self.resident, train_dataloader)
        # Trainer's own set_epoch does not reach the sampler once batches are skipped in several processes.
        self.sampler.epoch = epoch
        return super()._run_epoch(epoch=epoch, train_dataloader=train_dataloader, **kwargs)

    def _resident_batches(self, resident: GpuResident, loader: DataLoader) -> DataLoader:
        """The loader of crops of images in GPU memory, if they are there or fit now; otherwise `loader`."""
        if resident.batches is None:
            optimizer_bytes = 8 * self.parameter_count() if not self.state.global_step else 0
            if not resident.fits(self.args.device, optimizer_bytes):
                return loader
            sampler = self._get_train_sampler()
            resident.load(self.accelerator, sampler, self._train_batch_size, self.args.dataloader_pin_memory)
            getattr(loader, "base_dataloader", loader)._iterator = None  # ends persistent workers
        assert resident.batches is not None, "load() sets them"
        batches, self.sampler = resident.batches
        return batches

    def _prepare_inputs(self, inputs: dict) -> dict:
        inputs = super()._prepare_inputs(inputs)
        if self.resident is not None and "augmentation_params" in inputs:
            inputs["pixel_values"] = self.resident.augment(inputs)
            if self.parts.batch_mixing is not None:
                soft = losses.soft_labels(inputs["labels"], self.num_classes)
                inputs["pixel_values"], inputs["labels"] = self.parts.batch_mixing(inputs["pixel_values"], soft)
        inputs["pixel_values"] = inputs["pixel_values"].to(torch.float32, memory_format=self.memory_format)
        return inputs

    def floating_point_ops(self, inputs: dict) -> int:
        """0: skips Trainer's FLOP counting, which walks all parameters each step."""
        return 0

    def prediction_step(
        self, model: nn.Module, inputs: dict, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[None, torch.Tensor, torch.Tensor]:
        """(None, logits, labels): evaluation's loss is plain cross-entropy from the logits, not the training loss."""
        inputs = self._prepare_inputs(inputs)
        labels = inputs.pop("labels")
        forward = getattr(model, "module", model).forward if self.is_compiled else model
        with torch.no_grad():
            logits = forward(**inputs).logits
        return None, logits.float(), labels

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        """Trainer's evaluation, of the averaged weights if there is an average."""
        decodes = isinstance(self.eval_dataset, EvaluationDataset) and not self.eval_dataset.is_cached
        with self.evaluated_weights(), hardware.trimmed_heap(decodes):
            return super().evaluate(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add to training logs images_per_second, and the fraction of a step's time that it waits for images."""
        if "loss" in logs:
            logs |= self.throughput.since_last_log(self.state.global_step, self.get_total_train_batch_size(self.args))
        super().log(logs, start_time)

    def compute_loss_context_manager(self) -> contextlib.AbstractContextManager:
        """Trainer's precision, or bf16 where `acceleration` measured that it is faster on this CPU."""
        if self.cpu_autocast is None:
            return super().compute_loss_context_manager()
        return torch.autocast(self.args.device.type, self.cpu_autocast)

    def compile(self) -> None:
        """Compile the network in place for training; weight names stay, and evaluation uses `forward` uncompiled."""
        self.model.compile()
        self.is_compiled = True

    def undo_compile(self) -> None:
        """Undo `compile`."""
        self.model._compiled_call_impl = None  # torch has no public way
        self.is_compiled = False

    def _batch_loss(self, samples: list) -> torch.Tensor:
        """The loss of a batch as training computes it."""
        dtype = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else self.cpu_autocast
        inputs = self._prepare_inputs(collate(samples))
        labels = inputs.pop("labels")
        with torch.autocast(self.args.device.type, dtype, enabled=dtype is not None):
            return self.parts.loss(self.model(**inputs), labels)
