"""How a pretrained network is tuned: the mode, what it starts from, and the trainer in its initial state."""

from __future__ import annotations

import logging
from collections.abc import Collection
from copy import copy
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import set_seed

from imgcls.config.data_options import DataOptions
from imgcls.config.model_options import AugmentOptions, ModelOptions, TuneOptions
from imgcls.config.performance_options import PerformanceOptions
from imgcls.config.training_options import TrainingOptions
from imgcls.data.location import DataLocation
from imgcls.data.splits import DatasetSplits
from imgcls.dataloading import feature_dataset
from imgcls.dataloading.augmentation import make_augmentation_plan, make_batch_mixing
from imgcls.dataloading.crops import CropSpec
from imgcls.dataloading.image_datasets import EvaluationDataset, TrainingDataset
from imgcls.dataloading.processor_spec import ProcessorSpec
from imgcls.evaluation import diagnosis
from imgcls.experiment.warm_start import WarmStart, make_extractor, prepare_warm_start
from imgcls.models import lora, losses, model_config, param_groups
from imgcls.models.classifier import Classifier, build_classifier, head_names, head_of
from imgcls.models.input_size import InputFormat
from imgcls.models.registry import CHECKPOINTS
from imgcls.models.source import ModelSource, base_model, previous_datasets
from imgcls.probing import features
from imgcls.storage import run_folder
from imgcls.storage.pixel_cache import PixelCache
from imgcls.training.trainer import ImageTrainer, TrainingParts

log = logging.getLogger(__name__)

OPINIONS = 3  # sets of probes asked for wrong labels: three found more than one
KNOWN_TYPES = {c.config["model_type"] for c in CHECKPOINTS.values()}


@dataclass
class TrainingSetup:
    """All that a training is made of; once prepared, `trainer` starts from the same initial state at every call."""

    mode: str
    source: ModelSource
    data: DataOptions
    wanted: ModelOptions
    tune: TuneOptions
    augment: AugmentOptions
    args: TrainingOptions
    splits: DatasetSplits
    run: run_folder.RunFolder
    location: DataLocation
    speed: PerformanceOptions = field(default_factory=PerformanceOptions)
    kept: PixelCache = field(default_factory=PixelCache)
    start: WarmStart = field(default_factory=WarmStart)

    def prepared(self) -> TrainingSetup:
        """The same setup with what it starts from, and with the input that its training images chose; rank 0 first."""
        own = {name: copy(getattr(self, name)) for name in ("wanted", "augment", "speed", "args")}
        ready = replace(self, **own)
        with ready.args.main_process_first():
            ready.start = prepare_warm_start(
                ready.mode, ready.source, ready.data, ready.wanted, ready.tune, ready.augment, ready.speed, ready.args,
                ready.splits, ready.kept,
            )  # fmt: skip
        return ready

    def opinions(self) -> dict[str, np.ndarray]:
        """What probes that did not see it say of each image, path -> logits (OPINIONS, K).

        Empty without a probe, and for more images than one is fitted on.
        """
        if self.start.probe is None or self.splits.num_images > features.PROBED_IMAGES:
            return {}
        extractor = make_extractor(
            self.mode, self.source, self.data, self.tune, self.speed, self.args, self.splits, self.kept
        )
        said = extractor.opinions(
            InputFormat(
                self.wanted.image_px or model_config.checkpoint_input_size(self.source), self.wanted.fixed_aspect
            ),
            self.start.probe.strength, OPINIONS, balanced=self.args.class_weights == "balanced", seed=self.args.seed,
        )  # fmt: skip
        return dict(zip(self.splits.merged().paths, np.stack(said, axis=1), strict=True))

    def options(self) -> dict:
        """Every option in force, for options.yaml."""
        ours = (self.data, self.wanted, self.tune, self.augment, self.speed)
        return {name: value for of in ours for name, value in vars(of).items()} | self.args.in_force()

    def sources(self) -> dict:
        """Where model and images come from, as far as it is public: {"base_model", "dataset", "earlier", "demo"}."""
        fresh = self.wanted.from_scratch
        base, before = (None, []) if fresh else (base_model(self.source), previous_datasets(self.source))
        return {"base_model": base, "dataset": self.location.hub_id, "earlier": before, "demo": self.location.is_demo}

    def trainer(self, batch: int, accumulation: int) -> ImageTrainer:
        """A trainer that takes `batch` images a step and device, and so many such batches an optimizer step."""
        args = self.args
        set_seed(args.seed)
        classifier = self._classifier()
        module, head = self._trained(classifier)
        probe_state = None
        if self.start.probe is not None:
            probe_state = {name: value.cpu().clone() for name, value in module.state_dict().items()}
        if self.mode == "probe_and_full":
            head_of(classifier.network).reset_parameters()
        if self.tune.batch_norm == "hold":
            param_groups.freeze_batch_norm(module)
        args.per_device_train_batch_size, args.gradient_accumulation_steps = batch, accumulation
        if args.ddp_find_unused_parameters is None and classifier.network.config.model_type in KNOWN_TYPES:
            args.ddp_find_unused_parameters = False  # they use all; looking for others costs time and a warning
        train, validation = self._views(classifier)
        parts = TrainingParts(
            classifier=classifier,
            module=module,
            train=train,
            validation=validation,
            loss=self._loss(),
            learning_rates=param_groups.LearningRates(head, self.tune.layer_decay, self.tune.head_factor),
            task=self._task(),
            batch_mixing=make_batch_mixing(self.augment.mixup, self.augment.cutmix),
            probe_state=probe_state,
            ema_decay=self.tune.ema,
            cuda_graph=self.speed.cuda_graph == "auto",
        )
        return ImageTrainer(parts, args, self.run)

    @property
    def expected(self) -> str:
        """What `weight_selection.select_weights` keeps unless something else is clearly better.

        With class weights the single images of rare classes weigh so much that training learns them by heart: on six
        digits at 100 : 1 the average with what it made of the probe was 0.05 below the probe.
        """
        if self.mode == "probe_and_full":
            return "fine-tuned"
        return "probe" if self.args.class_weights == "balanced" else "average"

    def _classifier(self) -> Classifier:
        """The network that fits the task, with the probe as its head if there is one."""
        built = build_classifier(
            self.source,
            self.splits.classes,
            from_scratch=self.wanted.from_scratch,
            image_px=self.wanted.image_px,
            aspect=self.wanted.fixed_aspect,
            drop_path=self.tune.drop_path,
        )
        for note in built.notes:
            log.info("model: %s", note)
        if self.start.probe is not None:
            head = head_of(built.network)
            with torch.no_grad():
                head.weight.copy_(torch.from_numpy(self.start.probe.weight))
                head.bias.copy_(torch.from_numpy(self.start.probe.bias))
        return built

    def _trained(self, classifier: Classifier) -> tuple[nn.Module, Collection[str]]:
        """What is trained in this mode, and the names of the head's parameters in it."""
        if self.mode == "head":
            return HeadModel(head_of(classifier.network), classifier.network.config), {
                "head.weight",
                "head.bias",
            }
        if self.mode == "lora":
            wrapped = lora.add_lora(classifier, self.tune.lora_rank)
            some, every = wrapped.get_nb_trainable_parameters()
            log.info("lora: %s of %s weights train (%.1f %%)", f"{some:,}", f"{every:,}", 100 * some / every)
            return wrapped, lora.head_names(wrapped)
        return classifier.network, head_names(classifier.network)

    def _views(self, classifier: Classifier) -> list[Dataset]:
        """Training and validation samples."""
        if self.mode == "head":
            return [
                feature_dataset.FeatureDataset(self.start.features[name], self.splits[name].labels)
                for name in ("train", "validation")
            ]
        train, validation = self.splits.train, self.splits.validation
        spec = ProcessorSpec(classifier.processor)
        crop = CropSpec(self.augment.train_px, spec.resample, padded=spec.aspect == "pad", cache_px=self.speed.cache_px)
        return [
            TrainingDataset(
                train.rows,
                classifier.processor,
                make_augmentation_plan(self.augment),
                crop,
                self.args.seed,
                cache_keys=train.keys,
                cache=self.kept,
            ),
            EvaluationDataset(validation.rows, classifier.processor, cache_keys=validation.keys, cache=self.kept),
        ]

    def _loss(self) -> losses.ClassificationLoss:
        weights = None
        if self.args.class_weights == "balanced":
            labels = self.splits.train.labels
            weights = losses.balanced_class_weights(labels, len(self.splits.classes)).to(self.args.device)
        return losses.ClassificationLoss(weights, self.args.label_smoothing_factor, self.args.focal)

    def _task(self) -> diagnosis.TrainingTask:
        splits = self.splits
        return diagnosis.TrainingTask(
            splits.classes,
            np.bincount(splits.train.labels, minlength=len(splits.classes)).tolist(),
            len(splits.validation),
            pretrained=not self.wanted.from_scratch,
            is_demo=self.location.is_demo,
            head_only=self.mode == "head",
            balanced=self.args.class_weights == "balanced",
            smoothing=self.args.label_smoothing_factor,
        )


class HeadModel(nn.Module):
    """A network's head as a model of its own over features; trained here, it is trained in the network too."""

    def __init__(self, head: nn.Linear, config):
        super().__init__()
        self.head, self.config = head, config

    def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        """pixel_values: features (N, D). Returns an object with logits (N, K)."""
        return SimpleNamespace(logits=self.head(pixel_values))
