"""How a pretrained network is tuned: the mode, what it starts from, and the trainer in its initial state."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn
from transformers import set_seed

from imgcls import artifacts, diagnosis, features, layers, lora, losses, model, probe, recipes
from imgcls.checkpoints import CHECKPOINTS
from imgcls.dataset import Division
from imgcls.errors import OptionError
from imgcls.options import AugmentOptions, ModelOptions, TuneOptions
from imgcls.source import Source
from imgcls.trainer import ImageTrainer
from imgcls.training_options import TrainOptions
from imgcls.transforms import EvaluationView, TrainingView, mixing, plan_of

log = logging.getLogger(__name__)

KEEP_BYTES = 500_000_000  # of validation pixels in memory: 800 images of 224 px
KNOWN_TYPES = {c.config["model_type"] for c in CHECKPOINTS.values()}


def mode_of(tune: TuneOptions, wanted: ModelOptions, augment: AugmentOptions, source: Source) -> str:
    """The mode that --tune means here: "full", "head", "lora" or "probe_then_full".

    Raises OptionError for a mode that needs pretrained features when there are none, and for options that have
    nothing to work on in a mode.
    """
    if tune.tune == "head" and (augment.mixup or augment.cutmix):
        raise OptionError("Expected --tune head without --mixup and --cutmix: features are computed of whole images.")
    if tune.tune == "full" or (tune.tune == "auto" and wanted.from_scratch):
        return "full"
    if wanted.from_scratch:
        raise OptionError(f"Expected --tune full with random weights, got {tune.tune}: their features say nothing.")
    if tune.tune == "auto" and not model.has_linear_head(source):
        log.info("tune: full, since the head of %s is not one linear layer", source.name)
        return "full"
    return "probe_then_full" if tune.tune == "auto" else tune.tune


@dataclass(frozen=True)
class Start:
    """What a training starts from beyond the checkpoint: a probe as head, and for --tune head kept features."""

    probe: probe.Probe | None = None
    features: dict[str, np.ndarray] = field(default_factory=dict)


def start(
    mode: str, source: Source, wanted: ModelOptions, tune: TuneOptions, args: TrainOptions, division: Division
) -> Start:
    """Choose the input with --tune auto (set on `wanted`), and fit the probe."""
    if mode == "full":
        return Start()
    extractor = features.Extractor(
        source,
        division,
        device=args.device,
        batch=args.per_device_eval_batch_size,
        workers=args.dataloader_num_workers,
    )
    balanced = args.class_weights == "balanced"
    if tune.tune == "auto":
        chosen = features.best_input(extractor, wanted.image_px, wanted.crop, balanced=balanced, seed=args.seed)
        wanted.image_px, wanted.crop = chosen.image_px, chosen.crop
        log.info("input: %s", chosen)
    built = extractor.build(wanted.image_px, wanted.crop)
    splits = ("train", "validation") if mode == "head" else ("train",)
    seen = {split: extractor.features(built, split) for split in splits}
    labels = np.asarray(division.rows["train"]["label"])
    fitted = probe.fit(seen["train"], labels, len(division.classes), balanced=balanced, seed=args.seed)
    return Start(fitted, seen if mode == "head" else {})


def maker(
    mode: str,
    source: Source,
    wanted: ModelOptions,
    tune: TuneOptions,
    augment: AugmentOptions,
    args: TrainOptions,
    division: Division,
    run: artifacts.RunFolder,
    start: Start,
    *,
    is_demo: bool,
) -> Callable[[int, int], ImageTrainer]:
    """A function (batch, accumulation) -> ImageTrainer that starts from the same initial state at every call."""
    plan = plan_of(augment)

    def make(batch: int, accumulation: int) -> ImageTrainer:
        set_seed(args.seed)
        classifier = model.build(
            source,
            division.classes,
            from_scratch=wanted.from_scratch,
            image_px=wanted.image_px,
            crop=wanted.crop,
            drop_path=tune.drop_path,
        )
        for note in classifier.notes:
            log.info("model: %s", note)
        network, head = classifier.network, model.head_names(classifier.network)
        if start.probe is not None:
            with torch.no_grad():
                model.head_of(network).weight.copy_(torch.from_numpy(start.probe.weight))
                model.head_of(network).bias.copy_(torch.from_numpy(start.probe.bias))
        train, validation = (division.rows[split] for split in ("train", "validation"))
        if mode == "head":
            module, head = HeadOnly(model.head_of(network)), {"head.weight", "head.bias"}
            views = [features.FeatureView(start.features[s], division.rows[s]["label"]) for s in start.features]
        else:
            module = network
            if mode == "lora":
                module = lora.wrap(classifier, tune.lora_rank)
                head = lora.head_names(module)
                trained, all_of_them = module.get_nb_trainable_parameters()
                log.info(
                    "lora: %s of %s weights train (%.1f %%)",
                    f"{trained:,}",
                    f"{all_of_them:,}",
                    100 * trained / all_of_them,
                )
            if tune.batch_norm == "hold":
                layers.hold_batch_norm(module)
            px = augment.train_px or recipes.train_px(classifier.family, classifier.image_px)
            views = [
                TrainingView(train, classifier.processor, plan, px, args.seed),
                EvaluationView(
                    validation, classifier.processor, keep_bytes=0 if args.dataloader_num_workers else KEEP_BYTES
                ),
            ]
        args.per_device_train_batch_size, args.gradient_accumulation_steps = batch, accumulation
        if args.ddp_find_unused_parameters is None and network.config.model_type in KNOWN_TYPES:
            args.ddp_find_unused_parameters = False  # they use all; looking for others costs time and a warning
        weights = None
        if args.class_weights == "balanced":
            weights = losses.balanced_weights(train["label"], len(division.classes)).to(args.device)
        return ImageTrainer(
            classifier,
            module,
            args,
            *views,
            losses.ClassificationLoss(weights, args.label_smoothing_factor, args.focal),
            run,
            layers.Rates(head, tune.layer_decay, tune.head_factor),
            task=diagnosis.Task(
                division.classes,
                np.bincount(train["label"], minlength=len(division.classes)).tolist(),
                len(validation),
                pretrained=not wanted.from_scratch,
                is_demo=is_demo,
                head_only=mode == "head",
                balanced=args.class_weights == "balanced",
                smoothing=args.label_smoothing_factor,
            ),
            mix=mixing(augment.mixup, augment.cutmix),
            keep_start=start.probe is not None,
        )

    return make


class HeadOnly(nn.Module):
    """A network's head as a model of its own over features; trained here, it is trained in the network too."""

    def __init__(self, head: nn.Linear):
        super().__init__()
        self.head = head

    def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        """pixel_values: features (N, D). Returns an object with logits (N, K)."""
        return SimpleNamespace(logits=self.head(pixel_values))
