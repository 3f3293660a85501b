"""The fine-tuning mode that --tune stands for."""

from __future__ import annotations

import logging

from imgcls.config import recipes
from imgcls.config.model_options import ModelOptions, TuneOptions
from imgcls.errors import OptionError
from imgcls.models import model_config
from imgcls.models.classifier_head import has_linear_head
from imgcls.models.source import ModelSource

log = logging.getLogger(__name__)


def resolve_mode(tune: TuneOptions, model: ModelOptions, source: ModelSource, images: int) -> str:
    """Return the mode that --tune stands for with this number of training images.

    One of "full", "head", "lora", "probe_then_full" (fine-tuning starts from a linear probe) and "probe_and_full"
    (fine-tuning starts from a fresh head, and its result must beat the probe). Raises OptionError for a mode that needs
    pretrained features when there are none, ModelError for an --image_px that the network cannot take.
    """
    if model.image_px is not None:
        model_config.check_input_size(source, model.image_px)
    if tune.tune == "full" or (tune.tune == "auto" and (model.from_scratch or tune.recipe == "guide")):
        return "full"
    if model.from_scratch:
        raise OptionError(
            f"Expected --tune full with random weights, got {tune.tune}: it needs pretrained features. "
            "Omit --from_scratch or --tune."
        )
    if tune.tune != "auto":
        return tune.tune
    if not has_linear_head(source):
        log.info("tune: full, since the head of %s is not a single linear layer", source.name)
        return "full"
    return recipes.auto_tuning_mode(model_config.checkpoint_family(source), images)
