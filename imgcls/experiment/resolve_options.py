"""Every option of a training, decided once: what the user set, then the recipe's choices for these images."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

from imgcls.config import recipes
from imgcls.config.recipes import Choice
from imgcls.config.training_config import TrainingConfig, TrainingRequest
from imgcls.data import decoding, demo_digits
from imgcls.data.splits import DatasetSplits
from imgcls.dataloading.augmentation import PLANS
from imgcls.dataloading.image_datasets import THUMBNAIL_PX
from imgcls.experiment.modes import resolve_mode
from imgcls.models import model_config
from imgcls.models.source import ModelSource
from imgcls.probing import features, input_choice
from imgcls.system import hardware

log = logging.getLogger(__name__)

ELONGATED_FRACTION = 0.25  # of the images: from here on a center crop does not suit the photos


def resolve_options(
    request: TrainingRequest,
    source: ModelSource,
    splits: DatasetSplits,
    *,
    elongated_fraction: float = 0.0,
    is_demo: bool = False,
) -> TrainingConfig:
    """Decide every option that the user left open, and log each with its reason.

    source: the checkpoint, in a local folder. elongated_fraction: fraction of the images of which a center crop shows
    less than two thirds. What a linear probe has to decide, the aspect, is left to `resolve_aspect`. Raises OptionError
    and ModelError as `resolve_mode`.
    """
    if is_demo and request.model.image_px is None:
        request = request.with_options(image_px=demo_digits.DEMO_INPUT_PX)
    mode = resolve_mode(request.tune, request.model, source, len(splits.train))
    config = TrainingConfig.from_request(request, mode, is_demo)
    short_side = functools.cache(lambda: input_choice.median_short_side(splits.train.rows, request.training.seed))
    open_px = _choose_image_px(config, source, short_side)
    facts = recipes.Facts(
        images=len(splits.train),
        classes=len(splits.classes),
        imbalance=splits.train.imbalance(),
        family=model_config.checkpoint_family(source),
        pretrained=not config.model.from_scratch,
        mode=mode,
        is_demo=is_demo,
        processes=config.training.world_size,
        balanced_sampler=config.training.sampler == "balanced",
        smaller_input=bool(open_px) and open_px[0].value < model_config.checkpoint_input_size(source),
    )
    choices = recipes.open_choices(recipes.choose_options(facts, config.tune.recipe), config.given)
    choices += open_px + _choose_aspect_by_shape(config, source, elongated_fraction)
    config = _with_choices(config, choices)
    photo_sizes = _choose_photo_sizes(config, source, short_side)
    config = _with_choices(config, photo_sizes)
    for line in recipes.choice_lines(choices + photo_sizes):
        log.info(line)
    warning = recipes.undertraining_warning(facts, config.training.learning_rate)
    if warning:
        log.warning("warning: %s", warning)
    return _with_workers(config)


def resolve_aspect(config: TrainingConfig, extractor: features.FeatureExtractor) -> TrainingConfig:
    """Let linear probes on the training images choose the aspect, where --tune auto leaves it open.

    Each fold of a cross-validation repeats this on its own training images.
    """
    if not config.chooses_input:
        return config
    chosen = input_choice.choose_input(
        extractor,
        config.model.image_px,
        config.model.fixed_aspect,
        balanced=config.balances_classes,
        seed=config.training.seed,
    )
    log.info("input: %s", chosen)
    return config.with_options(aspect=chosen.aspect or "auto")


def _with_choices(config: TrainingConfig, choices: list[Choice]) -> TrainingConfig:
    config = config.with_options(**{choice.option: choice.value for choice in choices})
    return config.with_reasons({choice.option: choice.reason for choice in choices})


def _choose_image_px(config: TrainingConfig, source: ModelSource, short_side: Callable[[], float]) -> list[Choice]:
    """The input size that --tune auto takes, if it is open."""
    if not config.chooses_input or config.model.image_px is not None:
        return []
    checkpoint_px = model_config.checkpoint_input_size(source)
    px = recipes.input_px(model_config.checkpoint_family(source), checkpoint_px, short_side())
    if px == checkpoint_px:
        reason = "as the checkpoint was trained"
    elif px > checkpoint_px:
        reason = "larger than the checkpoint's: the photos have the pixels, and CNNs gain"
    else:
        reason = "smaller than the checkpoint's: the images are tiny"
    return [Choice("image_px", px, reason)]


def _choose_aspect_by_shape(config: TrainingConfig, source: ModelSource, elongated_fraction: float) -> list[Choice]:
    """Squash photos where a center crop would miss too much of many, and no probe will choose."""
    is_open = config.model.aspect == "auto" and not config.chooses_input
    if not (is_open and elongated_fraction > ELONGATED_FRACTION and model_config.checkpoint_aspect(source) == "crop"):
        return []
    reason = f"a center crop would miss over a third of {100 * elongated_fraction:.0f} % of the photos"
    return [Choice("aspect", "squash", reason)]


def _choose_photo_sizes(config: TrainingConfig, source: ModelSource, short_side: Callable[[], float]) -> list[Choice]:
    """The size of training crops, and of the photos in the pixel cache, where they are open."""
    image_px = config.model.image_px or model_config.checkpoint_input_size(source)
    train_px = recipes.train_px(model_config.checkpoint_family(source), image_px)
    crop_px = config.augment.train_px or train_px.value
    crop_area = PLANS[config.augment.augment or "none"].crop_area or features.CROPS.crop_area or (1.0, 1.0)
    cache_px = recipes.cache_px(image_px, crop_px, min_crop_area=crop_area[0])
    choices = []
    if config.augment.train_px is None and config.mode != "head":
        choices.append(train_px)
    caches = config.performance.cache_px is None and config.performance.cache != "off"
    if caches and (not config.reads_photos_once or _audit_decodes_as_small(short_side, cache_px.value)):
        choices.append(cache_px)
    return choices


def _audit_decodes_as_small(short_side: Callable[[], float], cache_px: int) -> bool:
    """Whether most photos are so large that the audit's scaled decode leaves them as small as these, in the cache."""
    smallest = max(THUMBNAIL_PX[0], decoding.SCALED_DECODE_MARGIN * cache_px)
    return 8 * smallest <= short_side() <= 8 * THUMBNAIL_PX[1]


def _with_workers(config: TrainingConfig) -> TrainingConfig:
    workers = config.training.dataloader_num_workers
    if "dataloader_num_workers" not in config.given:
        workers = hardware.default_loader_workers()
    persistent = config.training.dataloader_persistent_workers
    if "dataloader_persistent_workers" not in config.given:
        persistent = workers > 0
    return config.with_options(dataloader_num_workers=workers, dataloader_persistent_workers=persistent)
