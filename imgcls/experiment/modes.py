"""The fine-tuning mode, and how non-square photos are made square, where the user has not said."""

from __future__ import annotations

import logging

from imgcls.config import recipes
from imgcls.config.model_options import ModelOptions, TuneOptions
from imgcls.data.splits import DatasetSplits
from imgcls.errors import OptionError
from imgcls.models import model_config
from imgcls.models.classifier import has_linear_head
from imgcls.models.source import ModelSource
from imgcls.probing import input_choice

log = logging.getLogger(__name__)


CUT_SHARE = 0.25  # of the images: from here a crop of the middle is not what the photos need


def resolve_mode(tune: TuneOptions, wanted: ModelOptions, source: ModelSource, images: int) -> str:
    """The mode that --tune means for so many images to train on: "full", "head", "lora", "probe_then_full", or
    "probe_and_full": from a fresh head, with the probe as what the result must beat.

    Raises OptionError for a mode that needs pretrained features when there are none, ModelError for an --image_px that
    the network cannot have.
    """
    if wanted.image_px is not None:
        model_config.check_input_size(source, wanted.image_px)
    if tune.tune == "full" or (tune.tune == "auto" and (wanted.from_scratch or tune.recipe == "guide")):
        return "full"
    if wanted.from_scratch:
        raise OptionError(f"Expected --tune full with random weights, got {tune.tune}: their features say nothing.")
    if tune.tune == "auto" and not has_linear_head(source):
        log.info("tune: full, since the head of %s is not one linear layer", source.name)
        return "full"
    return recipes.auto_tuning_mode(model_config.family_of(source), images) if tune.tune == "auto" else tune.tune


def uses_smaller_input(
    mode: str, tune: TuneOptions, wanted: ModelOptions, source: ModelSource, splits: DatasetSplits, seed: int
) -> bool:
    """Whether --tune auto will take a smaller input than the checkpoint's own, since the pictures are tiny."""
    if mode == "full" or tune.tune != "auto" or wanted.image_px is not None:
        return False
    family, own = model_config.family_of(source), model_config.checkpoint_input_size(source)
    return recipes.input_px(family, own, input_choice.median_short_side(splits.train.rows, seed)) < own


def choose_aspect(mode: str, tune: TuneOptions, wanted: ModelOptions, source: ModelSource, cut_share: float) -> None:
    """With --aspect auto and no probe to ask: squash photos whose middle would miss too much of them.

    cut_share: share of the images of which the middle square shows less than two thirds.
    """
    probed = mode != "full" and tune.tune == "auto"
    if (
        wanted.aspect == "auto"
        and not probed
        and cut_share > CUT_SHARE
        and model_config.checkpoint_aspect(source) == "crop"
    ):
        wanted.aspect = "squash"
        log.info(
            "input: photos are squashed to a square, since the middle of %.0f %% of them would miss over a third "
            "(--aspect crop shows the middle all the same)", 100 * cut_share,
        )  # fmt: skip
