"""What a network is shown of a photo: the side of its square input, and a crop or the whole; set in the processor."""

from __future__ import annotations

from dataclasses import dataclass

import transformers
from PIL import Image

from imgcls.errors import ModelError


@dataclass(frozen=True)
class Input:
    """What the network is shown: the side of the square, and the checkpoint's crop or the whole photo."""

    image_px: int
    crop: str = "checkpoint"

    def __str__(self) -> str:
        return f"{self.image_px} px, {'whole photo' if self.crop == 'whole' else 'crop of the checkpoint'}"


def side(config, processor) -> int:
    """Side of the square that the processor hands to the network."""
    if hasattr(processor, "data_config"):
        return processor.data_config["input_size"][-1]
    crop = getattr(processor, "crop_size", None) if getattr(processor, "do_center_crop", False) else None
    size = dict(crop or processor.size)
    return size.get("height") or size.get("shortest_edge") or getattr(config, "image_size", 224)


def resized(config, processor, image_px: int):
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
    scale = image_px / side(config, processor)
    settings = processor.to_dict()
    for key in ("size", "crop_size"):
        if settings.get(key):
            settings[key] = {k: round(v * scale) if isinstance(v, int) else v for k, v in settings[key].items()}
    return type(processor).from_dict(settings)


def uncropped(config, processor):
    """A processor that squashes the whole photo to the square that this one crops from it."""
    px = side(config, processor)
    if hasattr(processor, "data_config"):
        config.pretrained_cfg = {**config.pretrained_cfg, "crop_mode": "squash", "crop_pct": 1.0}
        return type(processor)(pretrained_cfg=config.pretrained_cfg, architecture=config.architecture)
    settings = {**processor.to_dict(), "size": {"height": px, "width": px}, "do_center_crop": False, "crop_pct": None}
    kind = type(processor)
    if kind.__name__.startswith("ConvNext"):  # it crops by itself below 384 px; ViT's differs in nothing else
        kind = transformers.ViTImageProcessor
        settings["image_processor_type"] = kind.__name__
    return kind.from_dict(settings)


def crops(processor, image_px: int) -> bool:
    """Whether the image processor cuts the sides off a wide photo."""
    photo = Image.new("RGB", (3 * image_px, image_px))
    photo.paste((255, 255, 255), (0, 0, image_px, image_px))
    seen = processor(images=photo, return_tensors="pt")["pixel_values"]
    return bool((seen.amax(-1) == seen.amin(-1)).all())
