"""What a network is shown of a photo: the side of its square input, and how it becomes one; set in the processor."""

from __future__ import annotations

from dataclasses import dataclass

import transformers
from PIL import Image

from imgcls.errors import ModelError

CROP_SHARE = 0.875  # of the shorter side, the usual one of networks trained on ImageNet


@dataclass(frozen=True)
class InputFormat:
    """What the network is shown: the side of the square, and how a photo becomes one (None: the checkpoint's way)."""

    image_px: int
    aspect: str | None = None

    def __str__(self) -> str:
        ways = {"crop": "the middle", "pad": "the whole photo, padded", "squash": "the whole photo, squashed"}
        return f"{self.image_px} px, {ways.get(self.aspect, 'the view of the checkpoint')}"


def input_side(config, processor) -> int:
    """Side of the square that the processor hands to the network."""
    if hasattr(processor, "data_config"):
        return processor.data_config["input_size"][-1]
    crop = getattr(processor, "crop_size", None) if getattr(processor, "do_center_crop", False) else None
    pad = getattr(processor, "pad_size", None) if getattr(processor, "do_pad", False) else None
    size = dict(crop or pad or processor.size)
    return size.get("height") or size.get("shortest_edge") or getattr(config, "image_size", 224)


def with_input_size(config, processor, image_px: int):
    """Set another input size in configuration and processor, so that `pipeline` uses it too."""
    patch = getattr(config, "patch_size", None)
    if isinstance(patch, int) and image_px % patch:
        low = image_px // patch * patch
        raise ModelError(
            f"Expected --image_px a multiple of the patch size {patch}, got {image_px}. "
            f"Use {max(low, patch)} or {low + patch}."
        )
    if hasattr(config, "image_size"):
        config.image_size = image_px
    if hasattr(processor, "data_config"):
        config.pretrained_cfg = {**config.pretrained_cfg, "input_size": [3, image_px, image_px]}
        return type(processor)(pretrained_cfg=config.pretrained_cfg, architecture=config.architecture)
    scale = image_px / input_side(config, processor)
    settings = processor.to_dict()
    for key in ("size", "crop_size", "pad_size"):
        if settings.get(key):
            settings[key] = {k: round(v * scale) if isinstance(v, int) else v for k, v in settings[key].items()}
    return type(processor).from_dict(settings)


def with_aspect(config, processor, aspect: str):
    """A processor that brings a photo that is no square to one by "crop", "pad" or "squash"; the same if it does so.

    Set in its own settings, so that `pipeline` and everything else answers alike. Raises ModelError for a processor
    that cannot express it.
    """
    px = input_side(config, processor)
    fickle = type(processor).__name__.startswith("ConvNext")  # it crops below 384 px and squashes above
    if detect_aspect(processor, px) == aspect and not fickle:
        return processor
    if hasattr(processor, "data_config"):
        mode = {"crop": "center", "pad": "border", "squash": "squash"}[aspect]
        share = CROP_SHARE if aspect == "crop" else 1.0
        config.pretrained_cfg = {**config.pretrained_cfg, "crop_mode": mode, "crop_pct": share}
        found = type(processor)(pretrained_cfg=config.pretrained_cfg, architecture=config.architecture)
    else:
        square = {"height": px, "width": px}
        settings = {**processor.to_dict(), "do_center_crop": False, "crop_pct": None, "do_pad": False, "size": square}
        if aspect == "crop":
            settings |= {"size": {"shortest_edge": round(px / CROP_SHARE)}, "do_center_crop": True, "crop_size": square}
        elif aspect == "pad":
            settings |= {"size": {"max_height": px, "max_width": px}, "do_pad": True, "pad_size": square}
        kind = type(processor)
        if fickle:  # ViT's differs in nothing else
            kind = transformers.ViTImageProcessor
            settings["image_processor_type"] = kind.__name__
        found = kind.from_dict(settings)
    if detect_aspect(found, px) != aspect:
        raise ModelError(
            f"Expected an image processor that can {aspect} photos, got {type(processor).__name__}. Leave --aspect out."
        )
    return found


def detect_aspect(processor, image_px: int) -> str | None:
    """How an image processor brings a wide photo to a square: "crop", "pad" or "squash"; None for any other way."""
    photo = Image.new("RGB", (3 * image_px, image_px))
    photo.paste((255, 255, 255), (0, 0, image_px, image_px))
    try:
        seen = processor(images=photo, return_tensors="pt")["pixel_values"][0].mean(0)
    except (ValueError, TypeError, KeyError):  # settings that its class does not know
        return None
    if tuple(seen.shape) != (image_px, image_px):
        return None
    if seen.amax() == seen.amin():
        return "crop"
    bright = (seen[:, image_px // 12] > seen.amax() - 0.05 * (seen.amax() - seen.amin())).float().mean()
    return "squash" if bright > 0.9 else "pad"
