"""Warm start: a linear probe as the initial head, and for --tune head the features to train it on."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from imgcls.config.training_config import TrainingConfig
from imgcls.data.splits import DatasetSplits
from imgcls.models import model_config
from imgcls.models.input_size import InputFormat
from imgcls.models.source import ModelSource
from imgcls.probing import features
from imgcls.probing.linear_probe import LinearProbe
from imgcls.storage.pixel_cache import PixelCache


@dataclass(frozen=True)
class WarmStart:
    """What a training starts from besides the checkpoint.

    probe: the initial head; None starts from a fresh one. features: for --tune head, by split, float32 (crops, images,
    features).
    """

    probe: LinearProbe | None = None
    features: dict[str, np.ndarray] = field(default_factory=dict)


def make_extractor(
    config: TrainingConfig, source: ModelSource, splits: DatasetSplits, cache: PixelCache
) -> features.FeatureExtractor:
    """Return what computes the features of these images with this checkpoint.

    cache: of decoded photos. Features of training images are computed from the photos in it, unless each is read once.
    """
    return features.FeatureExtractor(
        source,
        splits,
        config.training.device,
        config.training.per_device_eval_batch_size,
        features.ImageReading(
            cache,
            cache_px=config.performance.cache_px,
            is_fast=config.reads_photos_once and config.performance.cache_px is None,
        ),
    )


def input_format(config: TrainingConfig, source: ModelSource) -> InputFormat:
    """The input size and aspect of the network."""
    return InputFormat(config.model.image_px or model_config.checkpoint_input_size(source), config.model.fixed_aspect)


def prepare_warm_start(config: TrainingConfig, extractor: features.FeatureExtractor) -> WarmStart:
    """Fit the linear probe, and compute the features of --tune head; nothing of both with --tune full."""
    if config.mode == "full":
        return WarmStart()
    format_, seed = input_format(config, extractor.source), config.training.seed
    probe = extractor.probe(format_, features.MAX_PROBED_IMAGES, balanced=config.balances_classes, seed=seed)
    if config.mode != "head":
        return WarmStart(probe)
    backbone = extractor.backbone(format_)
    crops = [extractor.features(backbone, "train", crop=crop, seed=seed) for crop in range(config.tune.feature_crops)]
    return WarmStart(probe, {"train": np.stack(crops), "validation": extractor.features(backbone, "validation")[None]})
