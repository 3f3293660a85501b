"""A model's configuration and image processor, without its weights, and their adaptation to given classes."""

from __future__ import annotations

import transformers
from transformers import AutoConfig, AutoImageProcessor, BaseImageProcessor, PreTrainedConfig

from imgcls.errors import ModelError, one_line
from imgcls.models import input_size
from imgcls.models.registry import Checkpoint
from imgcls.models.source import ModelSource

TIMM_TRANSFORMERS = ("vit", "deit", "beit", "swin", "eva")


def load_config(source: ModelSource) -> tuple[PreTrainedConfig, BaseImageProcessor]:
    """Configuration and image processor, from the source's folder or else from the registry.

    Raises ModelError when the folder does not hold an image model that transformers knows.
    """
    if source.folder is None and source.checkpoint is not None:
        return _registry_config(source.checkpoint)
    try:
        config = AutoConfig.from_pretrained(source.local_folder)
        if getattr(config, "model_args", None):  # timm.save_for_hf writes these; the wrapper passes num_classes itself
            config.model_args = {k: v for k, v in config.model_args.items() if k != "num_classes"}
        return config, AutoImageProcessor.from_pretrained(source.local_folder)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(
            f"Expected an image model that transformers knows, got {source.name}: {one_line(error, limit=300)}"
        ) from error


def load_fitted_config(
    source: ModelSource, classes: list[str], image_px: int | None, aspect: str | None
) -> tuple[PreTrainedConfig, BaseImageProcessor]:
    """Configuration and image processor of the network that `classifier.build_classifier` builds; reads no weights."""
    config, processor = load_config(source)
    return config, fit_config(config, processor, classes, image_px, aspect)


def fit_config(
    config: PreTrainedConfig,
    processor: BaseImageProcessor,
    classes: list[str],
    image_px: int | None,
    aspect: str | None,
) -> BaseImageProcessor:
    """Set classes and input size in `config`; return the processor for that input.

    image_px and aspect: see `classifier.build_classifier`. Raises ModelError for an input that is not possible.
    """
    config.num_labels = len(classes)
    config.id2label = dict(enumerate(classes))
    config.label2id = {name: i for i, name in enumerate(classes)}
    config.problem_type = "single_label_classification"
    if image_px is not None and image_px != input_size.input_side(config, processor):
        processor = input_size.with_input_size(config, processor, image_px)
    return processor if aspect is None else input_size.with_aspect(config, processor, aspect)


def model_family(config: PreTrainedConfig) -> str:
    """ "vit" for networks that cut the image into patch tokens, else "cnn"."""
    architecture = getattr(config, "architecture", "")  # timm's name, inside the wrapper
    has_tokens = hasattr(config, "num_attention_heads") or any(word in architecture for word in TIMM_TRANSFORMERS)
    return "vit" if has_tokens else "cnn"


def checkpoint_family(source: ModelSource) -> str:
    """`model_family` of a checkpoint."""
    return model_family(load_config(source)[0])


def checkpoint_aspect(source: ModelSource) -> str | None:
    """How the checkpoint's image processor makes photos square, see `input_size.detect_aspect`."""
    config, processor = load_config(source)
    return input_size.detect_aspect(processor, input_size.input_side(config, processor))


def checkpoint_input_size(source: ModelSource) -> int:
    """Side of the input that the checkpoint was trained with, px."""
    return input_size.input_side(*load_config(source))


def check_input_size(source: ModelSource, image_px: int) -> None:
    """Raises ModelError when the network cannot have this input size, before anything is built or written."""
    input_size.with_input_size(*load_config(source), image_px)


def _registry_config(checkpoint: Checkpoint) -> tuple[PreTrainedConfig, BaseImageProcessor]:
    config = AutoConfig.for_model(**checkpoint.config)
    settings = dict(checkpoint.processor)
    class_name = settings.pop("image_processor_type")
    if class_name == "TimmWrapperImageProcessor":
        settings = {"pretrained_cfg": config.pretrained_cfg, "architecture": config.architecture}
    return config, getattr(transformers, class_name)(**settings)
