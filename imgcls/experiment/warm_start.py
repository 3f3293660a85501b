"""What a training starts from beyond the checkpoint: the input that suits the photos, a probe as head, features."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np

from imgcls.config import recipes
from imgcls.config.data_options import DataOptions
from imgcls.config.model_options import AugmentOptions, ModelOptions, TuneOptions
from imgcls.config.performance_options import PerformanceOptions
from imgcls.config.training_options import TrainingOptions
from imgcls.data import decoding
from imgcls.data.splits import DatasetSplits
from imgcls.dataloading.augmentation import PLANS
from imgcls.dataloading.image_datasets import THUMBNAIL_PX
from imgcls.models import model_config
from imgcls.models.input_size import InputFormat
from imgcls.models.source import ModelSource
from imgcls.probing import features, input_choice, linear_probe
from imgcls.storage.pixel_cache import PixelCache

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WarmStart:
    """What a training starts from beyond the checkpoint: a probe as head, and for --tune head kept features."""

    probe: linear_probe.LinearProbe | None = None
    features: dict[str, np.ndarray] = field(default_factory=dict)


def prepare_warm_start(
    mode: str,
    source: ModelSource,
    data: DataOptions,
    wanted: ModelOptions,
    tune: TuneOptions,
    augment: AugmentOptions,
    speed: PerformanceOptions,
    args: TrainingOptions,
    splits: DatasetSplits,
    kept: PixelCache,
) -> WarmStart:
    """Fit the probe where the mode has one; set the input (--tune auto), the size of training crops and of kept photos.

    kept: where photos are kept; the features of training images are taken from those, unless they are seen once alone.
    """
    family = model_config.family_of(source)
    chooses = mode != "full" and tune.tune == "auto"
    image_px = wanted.image_px or model_config.checkpoint_input_size(source)
    if chooses and wanted.image_px is None:
        image_px = recipes.input_px(family, image_px, input_choice.median_short_side(splits.train.rows, args.seed))
    crops = recipes.train_px(family, image_px)
    train_px = augment.train_px or crops.value
    share = (PLANS[augment.augment or "none"].crop_area or features.VIEWS.crop_area)[0]
    photos = recipes.cache_px(image_px, train_px, share)
    given = {name for name, value in (("train_px", augment.train_px), ("cache_px", speed.cache_px)) if value}
    if mode == "head":
        given.add("train_px")
    if speed.cache == "off" or (
        _sees_photos_once(mode, data, tune) and not _is_decoded(splits, photos.value, args.seed)
    ):
        given.add("cache_px")
    lines = recipes.apply_choices([crops, photos], given, augment, speed)[1:]
    found = WarmStart()
    if mode != "full":
        extractor = make_extractor(mode, source, data, tune, speed, args, splits, kept)
        if chooses:
            _choose_input(extractor, wanted, args)
        found = _probed(mode, extractor, wanted, tune, args)
    for line in lines:
        log.info(line)
    return found


def make_extractor(
    mode: str,
    source: ModelSource,
    data: DataOptions,
    tune: TuneOptions,
    speed: PerformanceOptions,
    args: TrainingOptions,
    splits: DatasetSplits,
    kept: PixelCache,
) -> features.FeatureExtractor:
    """What computes the features of these images, after `prepare_warm_start` has chosen the size of kept photos."""
    return features.FeatureExtractor(
        source,
        splits,
        device=args.device,
        batch=args.per_device_eval_batch_size,
        kept=kept,
        short_px=speed.cache_px,
        is_fast=_sees_photos_once(mode, data, tune) and speed.cache_px is None,
    )


def _sees_photos_once(mode: str, data: DataOptions, tune: TuneOptions) -> bool:
    return mode == "head" and tune.views == 1 and not data.folds


def _is_decoded(splits: DatasetSplits, short_px: int, seed: int) -> bool:
    """Whether most photos are so large that the check keeps JPEGs as small as these, decoded."""
    least = max(THUMBNAIL_PX[0], decoding.SCALED_DECODE_MARGIN * short_px)
    return 8 * least <= input_choice.median_short_side(splits.train.rows, seed) <= 8 * THUMBNAIL_PX[1]


def _choose_input(extractor: features.FeatureExtractor, wanted: ModelOptions, args: TrainingOptions) -> None:
    balanced = args.class_weights == "balanced"
    chosen = input_choice.choose_input(
        extractor, wanted.image_px, wanted.fixed_aspect, balanced=balanced, seed=args.seed
    )
    wanted.image_px, wanted.aspect = chosen.image_px, chosen.aspect or "auto"
    log.info("input: %s", chosen)


def _probed(
    mode: str, extractor: features.FeatureExtractor, wanted: ModelOptions, tune: TuneOptions, args: TrainingOptions
) -> WarmStart:
    shown = InputFormat(wanted.image_px or model_config.checkpoint_input_size(extractor.source), wanted.fixed_aspect)
    balanced = args.class_weights == "balanced"
    fitted = extractor.probe(shown, features.PROBED_IMAGES, balanced=balanced, seed=args.seed)
    if mode != "head":
        return WarmStart(fitted)
    built = extractor.build(shown.image_px, shown.aspect)
    views = [extractor.features(built, "train", view=view, seed=args.seed) for view in range(tune.views)]
    return WarmStart(fitted, {"train": np.stack(views), "validation": extractor.features(built, "validation")[None]})
