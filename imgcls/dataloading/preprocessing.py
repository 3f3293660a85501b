"""From an image file to the network's input: as the image processor does it, faster, or as plain steps."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from imgcls.data import decoding
from imgcls.dataloading import crops
from imgcls.dataloading.processor_spec import ProcessorSpec

if TYPE_CHECKING:
    from transformers import BaseImageProcessor

BOTH, SHORTER, LONGER = "both sides", "shorter side", "longer side"
# Largest mean difference from the processor, in levels of 255: a border's rounded colour costs 0.1, another crop 10.
MAX_LEVELS_MISSED = 1.0


def evaluation_pixels(source: str | bytes, processor: BaseImageProcessor) -> torch.Tensor:
    """The network's input for an image file, float32 (3, px, px), exactly as `pipeline` computes it."""
    return ProcessorSpec(processor).pixel_values(decoding.load_rgb(source))


def fast_pixels(
    processor: BaseImageProcessor, preprocess: Callable[[Image.Image], torch.Tensor] | None = None
) -> Callable[[str | bytes], torch.Tensor]:
    """A function like `evaluation_pixels` that decodes large JPEGs at a smaller scale: nearly the same values.

    The scale is the smallest that leaves `ProcessorSpec.decode_px`. Without `preprocess` the values are exactly the
    same for other formats, for smaller images, and for a processor that takes the nearest pixel, which must be the
    image's own. preprocess: replaces the processor, for decoded images.
    """
    spec = ProcessorSpec(processor)
    short_px, takes_nearest = spec.decode_px, spec.resample == Image.Resampling.NEAREST
    preprocess = preprocess or spec.pixel_values

    def read(source: str | bytes) -> torch.Tensor:
        with decoding.open_image(source) as image:
            width, height = decoding.displayed_size(image)
            scale = short_px / min(width, height)
            at_least = None if takes_nearest or scale >= 1 else (width * scale, height * scale)
            return preprocess(decoding.to_rgb(image, at_least))

    return read


def fast_preprocess(spec: ProcessorSpec) -> Callable[[Image.Image], torch.Tensor]:
    """A function from an RGB image to float32 (3, px, px): within a level of 255 of the processor, three times as fast.

    It resizes as training crops are resized. It is the processor itself where that cannot be described by
    `preprocessing_steps`, pads, or has a filter that torch lacks.
    """
    noise = np.random.default_rng(0).integers(0, 256, (192, 256, 3), np.uint8)  # fine enough to tell filters apart
    image = Image.fromarray(noise).resize((512, 384), Image.Resampling.BICUBIC)
    steps, px = preprocessing_steps(spec, image), spec.image_px
    filter_name = crops.TORCH_FILTERS.get(Image.Resampling[steps["filter"].upper()]) if "filter" in steps else None
    if filter_name is None or steps["resize_px"] < px or steps["pad"]:
        return spec.pixel_values
    mean, std = (torch.tensor(steps[name], dtype=torch.float32).view(3, 1, 1) for name in ("mean", "std"))
    scale, shift = steps["rescale_factor"] / std, -mean / std

    def preprocess(image: Image.Image) -> torch.Tensor:
        columns, rows = _resized_size(steps, image.size)
        levels = crops.resize(np.array(image), (rows, columns), filter_name)
        top, left = _crop_offset(steps, rows), _crop_offset(steps, columns)
        return torch.addcmul(shift, levels[:, top : top + px, left : left + px].float(), scale)

    return preprocess


def preprocessing_steps(spec: ProcessorSpec, image: Image.Image) -> dict:
    """The processor's steps as plain values and words that need no library of ours, for any runtime.

    {"in_words", "image_px", "resize", "resize_px", "filter", "crop", "pad", "rounding", "rescale_factor", "mean",
    "std", "levels_missed", "processor"}, checked by applying them to a non-square `image` with Pillow alone. For a
    processor whose geometry these values cannot express: "in_words", "rescale_factor", "mean", "std", "processor".
    """
    px, black, white = spec.image_px, spec.black.double().numpy(), spec.white.double().numpy()
    std = 1 / (white - black)
    colours = {"rescale_factor": 1 / 255, "mean": (-black * std).round(6).tolist(), "std": std.round(6).tolist()}
    settings = json.loads(spec.processor.to_json_string())
    geometry, expected = _geometry(spec, settings), spec.pixel_values(image).numpy()
    levels_missed = math.inf
    if geometry is not None and expected.shape == (3, px, px):
        geometry = {"image_px": px, **geometry}
        difference = np.abs(apply_steps({**geometry, **colours}, image) - expected)
        levels_missed = float(difference.mean((1, 2)) @ std * 255 / 3)
    if geometry is None or not levels_missed <= MAX_LEVELS_MISSED:
        name = f"{type(spec.processor).__name__} of transformers with the settings below: no simpler steps equal it"
        return {"in_words": name, **colours, "processor": settings}
    steps = {**geometry, **colours}
    is_standard = "image_std" not in settings or np.allclose(std, settings["image_std"], atol=1e-4)
    note = "" if is_standard else " (mean and std as measured: the processor does more than image_mean and image_std)"
    return {
        "in_words": _in_words(steps) + note,
        **steps,
        "levels_missed": levels_missed,
        "processor": settings,
    }


def apply_steps(steps: Mapping, image: Image.Image) -> np.ndarray:
    """The steps applied to an RGB image with Pillow: float32 (3, px, px)."""
    px, mean = steps["image_px"], np.array(steps["mean"])
    size = _resized_size(steps, image.size)
    resized = image.resize(size, Image.Resampling[steps["filter"].upper()])
    square = Image.new("RGB", (px, px), tuple((255 * mean).round().astype(int).tolist()))
    before = 0 if steps["pad"] == "right and below" else 0.5  # fraction of the padding on the left and above
    left, top = (int(before * (px - side)) if side < px else -_crop_offset(steps, side) for side in size)
    square.paste(resized, (left, top))
    values = np.asarray(square) * steps["rescale_factor"]
    return ((values - mean) / np.array(steps["std"])).astype(np.float32).transpose(2, 0, 1)


def _resized_size(steps: Mapping, size: tuple[int, int]) -> tuple[int, int]:
    """Width and height after resizing an image of this width and height."""
    px = steps["resize_px"]
    if steps["resize"] == BOTH:
        return px, px
    width, height = size
    if steps["resize"] == SHORTER:
        return int(px * width / min(size)), int(px * height / min(size))
    nearest = _rounding(steps)
    return nearest(px * width / max(size)), nearest(px * height / max(size))


def _crop_offset(steps: Mapping, side: int) -> int:
    """Pixels before the center crop along a resized side."""
    return _rounding(steps)((side - steps["image_px"]) / 2)


def _rounding(steps: Mapping) -> Callable[[float], int]:
    return round if steps["rounding"] == "nearest" else int


def _geometry(spec: ProcessorSpec, settings: Mapping) -> dict | None:
    """{"resize", "resize_px", "filter", "crop", "pad", "rounding"}; None where the settings mean another way."""
    resize, resize_px = _resize(spec, settings)
    if resize is None:
        return None
    is_timm = spec.timm_config is not None
    padding = "around" if is_timm else "right and below"
    return {
        "resize": resize,
        "resize_px": resize_px,
        "filter": spec.resample.name.lower(),
        "crop": "middle" if resize == SHORTER or resize_px > spec.image_px else None,
        "pad": padding if resize == LONGER else None,
        "rounding": "nearest" if is_timm else "down",
    }


def _resize(spec: ProcessorSpec, settings: Mapping) -> tuple[str | None, int]:
    """Which side is resized to how many pixels; (None, 0) for another way."""
    if spec.timm_config is not None:
        side = {"squash": BOTH, "border": LONGER, "center": SHORTER}.get(spec.timm_config["crop_mode"])
        return side, math.floor(spec.image_px / spec.timm_config["crop_pct"])
    size = settings.get("size") or {}
    edge = size.get("shortest_edge")
    if edge and type(spec.processor).__name__.startswith("ConvNext"):
        return (BOTH, edge) if edge >= 384 else (SHORTER, int(edge / settings["crop_pct"]))
    for names, side in ((("height", "width"), BOTH), (("max_height", "max_width"), LONGER)):
        if len({size.get(name) for name in names} - {None}) == 1:
            return side, size[names[0]]
    return (SHORTER, edge) if edge and "longest_edge" not in size else (None, 0)


def _in_words(steps: Mapping) -> str:
    px, resize_px = steps["image_px"], steps["resize_px"]
    if steps["resize"] == BOTH:
        size = f"{resize_px} x {resize_px} px, aspect ratio not kept"
    else:
        size = f"{resize_px} px on the {steps['resize']}"
    crop = f", center crop of {px} x {px} px" if steps["crop"] else ""
    padding = f", padded with the mean colour {steps['pad']} to {px} x {px} px" if steps["pad"] else ""
    return (
        f"upright RGB, resized to {size} ({steps['filter']}){crop}{padding}, divided by 255, minus mean "
        f"{steps['mean']}, divided by std {steps['std']}, channels first"
    )
