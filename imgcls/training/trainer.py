"""Options, data and model -> a `transformers.Trainer` with one loss, whole checkpoints and exact resume."""

from __future__ import annotations

import contextlib
import copy
import logging
import time
from collections.abc import Callable, Mapping

import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import nn
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, Dataset
from transformers import EarlyStoppingCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from imgcls.config.training_options import METRICS, TrainingOptions
from imgcls.dataloading.augmentation import DeviceAugmentation
from imgcls.dataloading.gpu_images import GpuCropDataset
from imgcls.dataloading.image_datasets import EvaluationDataset, TrainingDataset, collate
from imgcls.dataloading.sampler import EpochSampler
from imgcls.evaluation import diagnosis
from imgcls.evaluation.intervals import standard_error
from imgcls.evaluation.metrics import ImageClassification
from imgcls.models import losses, param_groups
from imgcls.models.classifier import Classifier, memory_layout
from imgcls.models.step_timing import StepTime, time_full_batch, time_step
from imgcls.storage import atomic_file, run_folder
from imgcls.system import hardware
from imgcls.training import diagnosis_callback
from imgcls.training.callbacks import (
    EvaluateEveryEpochsCallback,
    HistoryCallback,
    ProgressBarCallback,
    StopwatchCallback,
)
from imgcls.training.checkpointing import CheckpointingTrainer, with_own_generator
from imgcls.training.ema import EmaCallback

log = logging.getLogger(__name__)

RESIDENT_SHARE = 0.7  # of the accelerator's free memory that photos may take


class ImageTrainer(CheckpointingTrainer):
    """Trainer over uint8 batches with device-side augmentation, one loss for all models and whole checkpoints.

    module: what is trained: the classifier's network, or its head alone over kept features. mix: blends a batch's
    images and class shares. start: the module with a probe as its head, which the finished weights are compared
    with. ema: decay of an average of the weights, which is then evaluated and kept.
    captures: whether steps may become CUDA graphs.
    """

    def __init__(
        self,
        classifier: Classifier,
        module: nn.Module,
        args: TrainingOptions,
        train: Dataset,
        validation: Dataset,
        loss: losses.ClassificationLoss,
        run: run_folder.RunFolder,
        rates: param_groups.LearningRates,
        *,
        task: diagnosis.TrainingTask,
        mix: Callable | None = None,
        start: Mapping[str, torch.Tensor] | None = None,
        ema: float | None = None,
        captures: bool = True,
    ):
        self.run, self.classifier, self.rates, self.mix = run, classifier, rates, mix
        self.num_classes = len(task.classes)
        self.numbers: dict | None = None  # of the latest evaluation, as in metrics.json
        self.diagnosis = diagnosis_callback.DiagnosisCallback(task, lambda: self.numbers)
        is_images = isinstance(train, TrainingDataset)
        self.layout = memory_layout(classifier.network) if is_images else torch.contiguous_format
        self.device_half = DeviceAugmentation(train.processor, train.plan, train.px, self.layout) if is_images else None
        self.metric = ImageClassification(task.classes)
        progress = ProgressBarCallback(not args.disable_tqdm, train.kept_share if is_images else None)
        callbacks = [StopwatchCallback(), HistoryCallback(run), progress, self.diagnosis]
        if args.eval_strategy == "epoch":
            callbacks.append(EvaluateEveryEpochsCallback(args.eval_every_epochs))
        if args.early_stopping_patience is not None:
            callbacks.append(EarlyStoppingCallback(args.early_stopping_patience))
        super().__init__(
            model=module.to(memory_format=self.layout),
            args=args,
            data_collator=collate,
            train_dataset=train,
            eval_dataset=validation,
            compute_loss_func=loss,
            compute_metrics=self._metrics,
            callbacks=callbacks,
        )
        self.average = EmaCallback(module, ema) if ema else None
        if self.average:
            self.add_callback(self.average)
        # ResNet and EfficientNet take **kwargs, so Trainer would hand them num_items_in_batch, which they ignore.
        self.model_accepts_loss_kwargs = False
        self.remove_callback(PrinterCallback if args.disable_tqdm else ProgressCallback)
        self.start, self.captures = start, captures
        self._logged = (0, time.monotonic())
        self._seconds = (0.0, 0.0)  # waiting and working, at the last log
        self.is_compiled = False
        self.lower: torch.dtype | None = None  # precision that a CPU takes instead of float32
        self.on_accelerator = GpuCropDataset(train) if is_images else None
        self.resident = None  # the photos, once they are there

    def unwrapped(self) -> nn.Module:
        """What is trained, as it was before processes and precision were wrapped around it."""
        return self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)

    def train(self, *arguments, **options):
        """Trainer's training. Where the weights were spread over processes (FSDP), each has all of them afterwards."""
        whole = copy.deepcopy(self.model) if self.is_fsdp_enabled else None
        done = super().train(*arguments, **options)
        if whole is not None:
            parts = self.model.state_dict()
            whole.load_state_dict({k: v.full_tensor() if isinstance(v, DTensor) else v for k, v in parts.items()})
            self.classifier.network = self.model = self.model_wrapped = whole.to(self.args.device)
        return done

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """Trainer's optimizer over groups of our own: rates by layer, no decay of vectors."""
        if self.optimizer is None:
            kind, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            groups = param_groups.parameter_groups(
                self.model, self.rates, self.args.learning_rate, self.args.weight_decay
            )
            self.optimizer = kind(groups, **settings)
        return self.optimizer

    def _metrics(self, prediction, compute_result: bool = True) -> dict:
        self.metric.add_batch(predictions=prediction.predictions, references=prediction.label_ids)
        if not compute_result:
            return {}
        self.numbers = self.metric.compute()
        return {name: self.numbers[name] for name in METRICS}

    def _get_train_sampler(self, train_dataset=None) -> EpochSampler:
        data_seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
        batch_images = self._train_batch_size * self.args.world_size
        weights = None
        if self.args.sampler == "balanced":
            labels = self.train_dataset.labels
            weights = losses.balanced_class_weights(labels, self.num_classes)[labels]
        self.sampler = EpochSampler(len(self.train_dataset), batch_images, data_seed, weights)
        return self.sampler

    def _run_epoch(self, *, epoch: int, train_dataloader, **kwargs):
        if self.resident is None and self._may_reside():
            self._reside()
            getattr(train_dataloader, "base_dataloader", train_dataloader)._iterator = None  # ends persistent workers
        if self.resident is not None:
            train_dataloader, self.sampler = self._dealt
        # Trainer's own set_epoch does not reach the sampler once batches are skipped in several processes.
        self.sampler.epoch = epoch
        return super()._run_epoch(epoch=epoch, train_dataloader=train_dataloader, **kwargs)

    def _may_reside(self) -> bool:
        """Whether all photos are kept and fit the memory that the accelerator has left."""
        if self.args.device.type == "cpu" or not self.sees_images or not self.on_accelerator.is_possible:
            return False
        optimizer_bytes = 8 * self.model.num_parameters() if not self.state.global_step else 0
        free = hardware.free_memory(self.args.device) - optimizer_bytes
        return self.on_accelerator.bytes < RESIDENT_SHARE * free

    def _reside(self) -> None:
        """Put the photos on the accelerator, and from now on let the host deal numbers alone."""
        view, started = self.on_accelerator, time.monotonic()
        self.resident = view.photos(self.args.device)
        loader = DataLoader(
            view,
            self._train_batch_size,
            sampler=self._get_train_sampler(),
            collate_fn=collate,
            pin_memory=self.args.dataloader_pin_memory,
        )
        self._dealt = (with_own_generator(self.accelerator.prepare(loader)), self.sampler)
        log.info(
            "photos: %d on the accelerator, %s, in %.1f s: nothing else of them crosses the bus",
            len(view), atomic_file.format_bytes(view.bytes), time.monotonic() - started,
        )  # fmt: skip

    def _crops(self, indices: torch.Tensor, boxes: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        view = self.train_dataset
        crops = self.resident.crops(indices, boxes, draws[:, :2], view.px, view.resample)
        return self.device_half(crops, draws)

    def _prepare_inputs(self, inputs: dict) -> dict:
        inputs = super()._prepare_inputs(inputs)
        draws = inputs.pop("draws", None)
        if draws is not None:
            if "boxes" in inputs:
                inputs["pixel_values"] = self._crops(inputs.pop("indices"), inputs.pop("boxes"), draws)
            else:
                inputs["pixel_values"] = self.device_half(inputs["pixel_values"], draws)
            if self.mix is not None:
                shares = losses.soft_labels(inputs["labels"], self.num_classes)
                inputs["pixel_values"], inputs["labels"] = self.mix(inputs["pixel_values"], shares)
        inputs["pixel_values"] = inputs["pixel_values"].to(torch.float32, memory_format=self.layout)
        return inputs

    def floating_point_ops(self, inputs: dict) -> int:
        """0: Trainer would count all parameters anew at every step, for a sum that no one reads."""
        return 0

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """(None, logits, labels): evaluation's loss is plain cross-entropy from the logits, not the training loss."""
        inputs = self._prepare_inputs(inputs)
        labels = inputs.pop("labels")
        with torch.no_grad():
            logits = (getattr(model, "module", model).forward if self.is_compiled else model)(**inputs).logits
        return None, logits.float(), labels

    def evaluate(self, *arguments, **options) -> dict[str, float]:
        """Trainer's evaluation, of the averaged weights where there are such."""
        reads = isinstance(self.eval_dataset, EvaluationDataset) and not self.eval_dataset.is_kept
        with self.average.in_place() if self.average else contextlib.nullcontext(), hardware.trimmed_heap(reads):
            return super().evaluate(*arguments, **options)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add to training logs images_per_second, and the share of a step's time that it waits for images."""
        if "loss" in logs:
            step, now = self.state.global_step, time.monotonic()
            images = (step - self._logged[0]) * self.get_total_train_batch_size(self.args)
            logs["images_per_second"] = round(images / (now - self._logged[1]), 1)
            spent = (self.diagnosis.waiting_s, self.diagnosis.working_s)
            waiting, working = (after - before for after, before in zip(spent, self._seconds, strict=True))
            logs["waiting"] = round(waiting / max(waiting + working, 1e-9), 3)
            self._logged, self._seconds = (step, now), spent
        super().log(logs, start_time)

    def _determine_best_metric(self, metrics: dict[str, float], trial) -> bool:
        """The best model is the latest whose metric is within one standard error of the highest so far.

        On few images the highest of many evaluations is mostly luck, and the later model has learned more: on 357
        photos in five folds (43 to choose by, 71 to test on) the highest gave 0.739, the latest 0.759. The rule of one
        standard error: Breiman et al. 1984, 3.4.3. Metrics that are no shares (loss) are compared as they are.
        """
        name = f"eval_{self.args.metric_for_best_model.removeprefix('eval_')}"
        is_best = super()._determine_best_metric(metrics, trial)
        if not is_best and self.args.greater_is_better:
            margin = standard_error(self.state.best_metric, len(self.eval_dataset))
            is_best = metrics[name] >= self.state.best_metric - margin
            if is_best:
                self.state.best_global_step = self.state.global_step
        return is_best

    @property
    def can_compile(self) -> bool:
        """Whether what is trained is a network that sees images, and whole on this process."""
        return self.sees_images and not self.is_fsdp_enabled

    @property
    def sees_images(self) -> bool:
        """Whether a whole network is trained, and not a head on features."""
        return isinstance(self.train_dataset, TrainingDataset)

    def compute_loss_context_manager(self):
        """Trainer's precision, or bf16 where `acceleration` found that faster on a CPU."""
        if self.lower is None:
            return super().compute_loss_context_manager()
        return torch.autocast(self.args.device.type, self.lower)

    def compile(self) -> None:
        """Compile the network in place for training; names of weights stay, and evaluation goes by `forward`."""
        self.model.compile()
        self.is_compiled = True

    def drop_compiled(self) -> None:
        """Undo `compile`."""
        self.model._compiled_call_impl = None
        self.is_compiled = False

    def rehearse(self, whole: bool = False) -> StepTime:
        """A step that leaves no trace, of few images on a CPU. Raises out-of-memory errors, on all ranks when one does.

        whole: with a batch as it will be, also on a CPU.
        """
        sets = (self.train_dataset, self.eval_dataset)
        how = (self._train_batch_size, self.args.device)
        return self._together(lambda: time_step(self.model, self._rehearsed_loss, *sets, *how, whole=whole))

    def rehearse_batch(self, pace: StepTime) -> StepTime:
        """The pace of a whole batch, where that of few images says that it takes not long. Raises as `rehearse`."""
        how = (self.train_dataset, self._train_batch_size, self.args.device)
        return self._together(lambda: time_full_batch(pace, self.model, self._rehearsed_loss, *how))

    def _rehearsed_loss(self, samples: list) -> torch.Tensor:
        dtype = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else self.lower
        inputs = self._prepare_inputs(collate(samples))
        labels = inputs.pop("labels")
        with torch.autocast(self.args.device.type, dtype, enabled=dtype is not None):
            return self.compute_loss_func(self.model(**inputs), labels)

    def _together(self, rehearsed: Callable[[], StepTime]) -> StepTime:
        failure = None
        try:
            pace = rehearsed()
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            failure = error
        failed = self.accelerator.gather(torch.tensor([failure is not None], device=self.args.device))
        if failed.any():
            raise torch.OutOfMemoryError("a rehearsed step did not fit") from failure
        return pace
