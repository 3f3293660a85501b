"""A model's configuration and image processor without its weights: what they say, and how they fit a task."""

from __future__ import annotations

import transformers
from transformers import AutoConfig, AutoImageProcessor

from imgcls.errors import ModelError
from imgcls.models import input_size
from imgcls.models.source import Source


def of(source: Source) -> tuple[object, object]:
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
            f"Expected an image model that transformers knows, got {source.name}: {' '.join(str(error).split())[:300]}"
        ) from error


def fitted(source: Source, classes: list[str], image_px: int | None, aspect: str | None) -> tuple[object, object]:
    """Configuration and image processor of what `model.build` builds; no weights are read."""
    config, processor = of(source)
    return config, shaped(config, processor, classes, image_px, aspect)


def family_of(source: Source) -> str:
    """ "vit" or "cnn", from the source's configuration."""
    return family(of(source)[0])


def check_px(source: Source, image_px: int) -> None:
    """Raises ModelError when the network cannot have this input size, before anything is built or written."""
    input_size.resized(*of(source), image_px)


def own_aspect(source: Source) -> str | None:
    """How the checkpoint's image processor brings a photo to a square: "crop", "pad", "squash" or None, another way."""
    config, processor = of(source)
    return input_size.shown(processor, input_size.side(config, processor))


def own_px(source: Source) -> int:
    """Side of the input that the checkpoint was made for."""
    return input_size.side(*of(source))


def family(config) -> str:
    """ "vit" for networks that cut the image into patch tokens, else "cnn"."""
    architecture = getattr(config, "architecture", "")  # timm's name, inside the wrapper
    tokens = hasattr(config, "num_attention_heads") or any(
        word in architecture for word in ("vit", "deit", "beit", "swin", "eva")
    )
    return "vit" if tokens else "cnn"


def shaped(config, processor, classes: list[str], image_px: int | None, aspect: str | None):
    """Set classes and input in a configuration; the processor of that input."""
    config.num_labels = len(classes)
    config.id2label = dict(enumerate(classes))
    config.label2id = {name: i for i, name in enumerate(classes)}
    config.problem_type = "single_label_classification"
    if image_px is not None and image_px != input_size.side(config, processor):
        processor = input_size.resized(config, processor, image_px)
    return processor if aspect is None else input_size.with_aspect(config, processor, aspect)
