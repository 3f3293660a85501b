"""Input size and aspect handling of a network, stored in its configuration and image processor.

Image processors are annotated as Any where settings are read that their base class does not declare.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import transformers
from PIL import Image
from transformers import BaseImageProcessor, PreTrainedConfig

from imgcls.errors import ModelError

CROP_FRACTION = 0.875  # side of the center crop over the shorter side, usual for networks trained on ImageNet
ASPECTS = {"crop": "center crop", "pad": "padded", "squash": "squashed (stretched, nothing cropped)"}


@dataclass(frozen=True)
class InputFormat:
    """Side of the network's square input in px, and how non-square photos are made square.

    aspect: "crop", "pad" or "squash"; None for the checkpoint's own way.
    """

    image_px: int
    aspect: str | None = None

    def __str__(self) -> str:
        return f"{self.image_px} px, {ASPECTS.get(self.aspect or '', 'aspect handling of the checkpoint')}"


def input_side(config: PreTrainedConfig, processor: Any) -> int:
    """Side of the square that the processor returns, px."""
    if hasattr(processor, "data_config"):
        return processor.data_config["input_size"][-1]
    crop = getattr(processor, "crop_size", None) if getattr(processor, "do_center_crop", False) else None
    pad = getattr(processor, "pad_size", None) if getattr(processor, "do_pad", False) else None
    size = dict(crop or pad or processor.size)
    return size.get("height") or size.get("shortest_edge") or getattr(config, "image_size", 224)


def with_input_size(config: PreTrainedConfig, processor: Any, image_px: int) -> BaseImageProcessor:
    """A processor with another input size, which is also set in `config`, so that `pipeline` uses it too.

    Raises ModelError for a size that is not a multiple of the network's patch size.
    """
    patch = getattr(config, "patch_size", None)
    if isinstance(patch, int) and image_px % patch:
        smaller = image_px // patch * patch
        raise ModelError(
            f"Expected --image_px a multiple of the patch size {patch}, got {image_px}. "
            f"Use {max(smaller, patch)} or {smaller + patch}."
        )
    if hasattr(config, "image_size"):
        config.image_size = image_px
    if hasattr(processor, "data_config"):
        return _with_timm_settings(config, processor, input_size=[3, image_px, image_px])
    scale = image_px / input_side(config, processor)
    settings = processor.to_dict()
    for key in ("size", "crop_size", "pad_size"):
        if settings.get(key):
            settings[key] = {k: round(v * scale) if isinstance(v, int) else v for k, v in settings[key].items()}
    return type(processor).from_dict(settings)


def with_aspect(config: PreTrainedConfig, processor: Any, aspect: str) -> BaseImageProcessor:
    """A processor that makes non-square photos square by "crop", "pad" or "squash"; the same one if it does so.

    The way is stored in the processor's own settings (for timm in `config`), so that `pipeline` gives the same
    predictions. Raises ModelError for a processor that has no such setting.
    """
    px = input_side(config, processor)
    is_convnext = type(processor).__name__.startswith("ConvNext")  # it crops below 384 px and squashes from there on
    if detect_aspect(processor, px) == aspect and not is_convnext:
        return processor
    if hasattr(processor, "data_config"):
        mode = {"crop": "center", "pad": "border", "squash": "squash"}[aspect]
        fraction = CROP_FRACTION if aspect == "crop" else 1.0
        result = _with_timm_settings(config, processor, crop_mode=mode, crop_pct=fraction)
    else:
        settings = processor.to_dict() | _aspect_settings(aspect, px)
        result_class: Any = type(processor)
        if is_convnext:  # ViT's processor differs in nothing else
            result_class = transformers.ViTImageProcessor
            settings["image_processor_type"] = result_class.__name__
        result = result_class.from_dict(settings)
    if detect_aspect(result, px) != aspect:
        raise ModelError(
            f"Expected an image processor that can {aspect} photos, got {type(processor).__name__}. Leave --aspect out."
        )
    return result


def detect_aspect(processor: Any, image_px: int) -> str | None:
    """How a processor makes a wide photo square: "crop", "pad" or "squash", tried on a test image; None otherwise."""
    photo = Image.new("RGB", (3 * image_px, image_px))
    photo.paste((255, 255, 255), (0, 0, image_px, image_px))
    try:
        pixels = processor(images=photo, return_tensors="pt")["pixel_values"][0].mean(0)
    except (ValueError, TypeError, KeyError):  # settings that its class does not know
        return None
    if tuple(pixels.shape) != (image_px, image_px):
        return None
    dark, bright = pixels.amin(), pixels.amax()
    if bright == dark:  # the white third on the left was cropped
        return "crop"
    bright_fraction = (pixels[:, image_px // 12] > bright - 0.05 * (bright - dark)).float().mean()
    return "squash" if bright_fraction > 0.9 else "pad"


def _with_timm_settings(config: PreTrainedConfig, processor: Any, **settings) -> BaseImageProcessor:
    """timm's processor reads its settings from the configuration, where they are changed."""
    config.pretrained_cfg = {**config.pretrained_cfg, **settings}
    return type(processor)(pretrained_cfg=config.pretrained_cfg, architecture=config.architecture)


def _aspect_settings(aspect: str, px: int) -> dict:
    """Settings of a transformers processor for an aspect."""
    square = {"height": px, "width": px}
    settings = {"do_center_crop": False, "crop_pct": None, "do_pad": False, "size": square}
    if aspect == "crop":
        settings |= {"size": {"shortest_edge": round(px / CROP_FRACTION)}, "do_center_crop": True, "crop_size": square}
    elif aspect == "pad":
        settings |= {"size": {"max_height": px, "max_width": px}, "do_pad": True, "pad_size": square}
    return settings
