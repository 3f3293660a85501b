"""A model's configuration and image processor without its weights: what they say, and how they fit a task."""

from __future__ import annotations

import transformers
from transformers import AutoConfig, AutoImageProcessor

from imgcls.errors import ModelError, one_line
from imgcls.models import input_size
from imgcls.models.source import ModelSource


def load_config(source: ModelSource) -> tuple[object, object]:
    """Configuration and image processor, from the source's folder or else from the table."""
    if source.folder is None:
        config = AutoConfig.for_model(**source.checkpoint.config)
        kind = source.checkpoint.processor["image_processor_type"]
        settings = {k: v for k, v in source.checkpoint.processor.items() if k != "image_processor_type"}
        if kind == "TimmWrapperImageProcessor":
            settings = {"pretrained_cfg": config.pretrained_cfg, "architecture": config.architecture}
        return config, getattr(transformers, kind)(**settings)
    try:
        config = AutoConfig.from_pretrained(source.folder)
        if getattr(config, "model_args", None):  # timm.save_for_hf writes these; the wrapper sets them itself
            config.model_args = {k: v for k, v in config.model_args.items() if k != "num_classes"}
        return config, AutoImageProcessor.from_pretrained(source.folder)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(
            f"Expected an image model that transformers knows, got {source.name}: {one_line(error, limit=300)}"
        ) from error


def load_fitted_config(
    source: ModelSource, classes: list[str], image_px: int | None, aspect: str | None
) -> tuple[object, object]:
    """Configuration and image processor of what `classifier.build_classifier` builds; no weights are read."""
    config, processor = load_config(source)
    return config, fit_config(config, processor, classes, image_px, aspect)


def family_of(source: ModelSource) -> str:
    """ "vit" or "cnn", from the source's configuration."""
    return model_family(load_config(source)[0])


def check_input_size(source: ModelSource, image_px: int) -> None:
    """Raises ModelError when the network cannot have this input size, before anything is built or written."""
    input_size.with_input_size(*load_config(source), image_px)


def checkpoint_aspect(source: ModelSource) -> str | None:
    """How the checkpoint's image processor brings a photo to a square: "crop", "pad", "squash" or None, another way."""
    config, processor = load_config(source)
    return input_size.detect_aspect(processor, input_size.input_side(config, processor))


def checkpoint_input_size(source: ModelSource) -> int:
    """Side of the input that the checkpoint was made for."""
    return input_size.input_side(*load_config(source))


def model_family(config) -> str:
    """ "vit" for networks that cut the image into patch tokens, else "cnn"."""
    architecture = getattr(config, "architecture", "")  # timm's name, inside the wrapper
    tokens = hasattr(config, "num_attention_heads") or any(
        word in architecture for word in ("vit", "deit", "beit", "swin", "eva")
    )
    return "vit" if tokens else "cnn"


def fit_config(config, processor, classes: list[str], image_px: int | None, aspect: str | None):
    """Set classes and input in a configuration; the processor of that input."""
    config.num_labels = len(classes)
    config.id2label = dict(enumerate(classes))
    config.label2id = {name: i for i, name in enumerate(classes)}
    config.problem_type = "single_label_classification"
    if image_px is not None and image_px != input_size.input_side(config, processor):
        processor = input_size.with_input_size(config, processor, image_px)
    return processor if aspect is None else input_size.with_aspect(config, processor, aspect)
