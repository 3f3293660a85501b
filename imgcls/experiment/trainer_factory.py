"""A setup and a batch size -> the trainer in its initial state."""

from __future__ import annotations

import logging
from collections.abc import Collection
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn
from transformers import PretrainedConfig, set_seed

from imgcls.config.training_options import TrainingOptions
from imgcls.dataloading.augmentation import make_augmentation_plan, make_batch_mixing
from imgcls.dataloading.crops import CropSpec
from imgcls.dataloading.feature_dataset import FeatureDataset
from imgcls.dataloading.image_datasets import EvaluationDataset, TrainingDataset
from imgcls.dataloading.processor_spec import ProcessorSpec
from imgcls.evaluation import diagnosis
from imgcls.experiment.setup import TrainingSetup
from imgcls.models import lora, losses, param_groups
from imgcls.models.classifier import Classifier, build_classifier
from imgcls.models.classifier_head import head_names, head_of
from imgcls.models.registry import CHECKPOINTS
from imgcls.training.trainer import ImageTrainer, TrainingParts

log = logging.getLogger(__name__)

KNOWN_TYPES = {checkpoint.config["model_type"] for checkpoint in CHECKPOINTS.values()}


def make_trainer(setup: TrainingSetup, batch: int, accumulation: int) -> ImageTrainer:
    """Return a trainer with `batch` images per step and device, and `accumulation` batches per optimizer step.

    Every call starts from the same weights and the same random state.
    """
    config = setup.config
    set_seed(config.training.seed)
    classifier = _make_classifier(setup)
    module, head = _trained_module(setup, classifier)
    probe_state = None
    if setup.warm_start.probe is not None:
        probe_state = {name: value.cpu().clone() for name, value in module.state_dict().items()}
    if config.mode == "probe_and_full":
        head_of(classifier.network).reset_parameters()
    if config.tune.batch_norm == "hold":
        param_groups.freeze_batch_norm(module)
    train, validation = _make_datasets(setup, classifier)
    parts = TrainingParts(
        classifier=classifier,
        module=module,
        train=train,
        validation=validation,
        loss=_make_loss(setup),
        learning_rates=param_groups.LearningRates(
            head, config.value("layer_decay"), config.value("head_lr_multiplier")
        ),
        task=_describe_task(setup),
        batch_mixing=make_batch_mixing(config.augment.mixup, config.augment.cutmix),
        probe_state=probe_state,
        ema_decay=config.tune.ema,
        cuda_graph=config.performance.cuda_graph == "auto",
    )
    return ImageTrainer(parts, _trainer_arguments(setup, classifier, batch, accumulation), setup.run)


def _trainer_arguments(setup: TrainingSetup, classifier: Classifier, batch: int, accumulation: int) -> TrainingOptions:
    values = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
    is_known = getattr(classifier.network.config, "model_type", None) in KNOWN_TYPES
    if setup.config.training.ddp_find_unused_parameters is None and is_known:
        # These use all parameters; looking for unused ones costs time and a warning.
        values["ddp_find_unused_parameters"] = False
    return setup.config.with_options(**values).training


def _make_classifier(setup: TrainingSetup) -> Classifier:
    """The network for the task, with the probe as its head if there is one."""
    config = setup.config
    classifier = build_classifier(
        setup.source,
        setup.splits.classes,
        from_scratch=config.model.from_scratch,
        image_px=config.model.image_px,
        aspect=config.model.fixed_aspect,
        drop_path=config.tune.drop_path,
    )
    for note in classifier.notes:
        log.info("model: %s", note)
    probe = setup.warm_start.probe
    if probe is not None:
        head = head_of(classifier.network)
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(probe.weight))
            head.bias.copy_(torch.from_numpy(probe.bias))
    return classifier


def _trained_module(setup: TrainingSetup, classifier: Classifier) -> tuple[nn.Module, Collection[str]]:
    """What is trained in this mode, and the names of the head's parameters in it."""
    network = classifier.network
    if setup.config.mode == "head":
        return HeadModel(head_of(network), network.config), {"head.weight", "head.bias"}
    if setup.config.mode == "lora":
        wrapped = lora.add_lora(classifier, setup.config.tune.lora_rank)
        trainable, total = wrapped.get_nb_trainable_parameters()
        log.info("lora: %s of %s parameters train (%.1f %%)", f"{trainable:,}", f"{total:,}", 100 * trainable / total)
        return wrapped, lora.head_names(wrapped)
    return network, head_names(network.config)


def _make_datasets(
    setup: TrainingSetup, classifier: Classifier
) -> tuple[TrainingDataset | FeatureDataset, EvaluationDataset | FeatureDataset]:
    """Training and validation samples."""
    config, train, validation = setup.config, setup.splits.train, setup.splits.validation
    if config.mode == "head":
        features = setup.warm_start.features
        return (
            FeatureDataset(features["train"], train.labels),
            FeatureDataset(features["validation"], validation.labels),
        )
    spec = ProcessorSpec(classifier.processor)
    crop = CropSpec(
        config.value("train_px"),
        spec.resample,
        padded=spec.aspect == "pad",
        cache_px=config.performance.cache_px,
    )
    training = TrainingDataset(
        train.rows,
        classifier.processor,
        make_augmentation_plan(config.augment),
        crop,
        config.training.seed,
        cache_keys=train.keys,
        cache=setup.cache,
    )
    return training, EvaluationDataset(
        validation.rows, classifier.processor, cache_keys=validation.keys, cache=setup.cache
    )


def _make_loss(setup: TrainingSetup) -> losses.ClassificationLoss:
    training = setup.config.training
    weights = None
    if setup.config.balances_classes:
        labels = setup.splits.train.labels
        weights = losses.balanced_class_weights(labels, len(setup.splits.classes)).to(training.device)
    return losses.ClassificationLoss(weights, training.label_smoothing_factor, training.focal)


def _describe_task(setup: TrainingSetup) -> diagnosis.TrainingTask:
    config, splits = setup.config, setup.splits
    return diagnosis.TrainingTask(
        splits.classes,
        np.bincount(splits.train.labels, minlength=len(splits.classes)).tolist(),
        len(splits.validation),
        pretrained=not config.model.from_scratch,
        is_demo=config.is_demo,
        head_only=config.mode == "head",
        balanced=config.balances_classes,
        smoothing=config.training.label_smoothing_factor,
    )


class HeadModel(nn.Module):
    """The head of a network as a separate model over features; the network shares its weights."""

    def __init__(self, head: nn.Linear, config: PretrainedConfig):
        super().__init__()
        self.head, self.config = head, config

    def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        """Return an object with logits (N, classes). pixel_values: features (N, D)."""
        return SimpleNamespace(logits=self.head(pixel_values))
