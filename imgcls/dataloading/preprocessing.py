"""What has to be done to a photo before a network sees it, in plain values and words that need no library of ours."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from PIL import Image

from imgcls.data import decoding
from imgcls.dataloading import crops
from imgcls.dataloading.crops import resample_filter

BOTH, SHORTER, LONGER = "both sides", "shorter side", "longer side"
LEVELS = 1.0  # of 255, by which the steps may miss the processor: a border's rounded colour costs 0.1, another crop 10


def preprocessing_steps(processor, picture: Image.Image, px: int) -> dict:
    """{"in_words", "image_px", "resize", "resize_px", "filter", "crop", "pad", "rounding", "rescale_factor",
    "mean", "std", "levels_missed", "processor"}, checked by doing it to a wide `picture`, with Pillow alone.

    Mean and standard deviation are measured on black and white: some processors divide twice, or shift. A processor
    whose geometry these words cannot say has "in_words", the colours and its own settings only.
    """
    square = (px, px)
    black, white = (
        preprocess(Image.new("RGB", square, (v,) * 3), processor).astype(float).mean((1, 2)) for v in (0, 255)
    )
    std = 1 / (white - black)
    colours = {"rescale_factor": 1 / 255, "mean": (-black * std).round(6).tolist(), "std": std.round(6).tolist()}
    settings = json.loads(processor.to_json_string())
    way = _way(processor, settings, px)
    found = way and {"image_px": px, **way, **colours}
    missed = (
        np.abs(apply_steps(found, picture) - preprocess(picture, processor)).mean((1, 2)) @ std * 255 / 3
        if way
        else math.inf
    )
    if not missed <= LEVELS:
        own = f"{type(processor).__name__} of transformers with the settings below, which has a way of its own"
        return {"in_words": own, **colours, "processor": settings}
    more = "image_std" in settings and not np.allclose(std, settings["image_std"], atol=1e-4)
    return {
        "in_words": _in_words(found) + (_MORE if more else ""),
        **found,
        "levels_missed": float(missed),
        "processor": settings,
    }


_MORE = " (mean and std as they act in all: this processor does more than its image_mean and image_std say)"


def apply_steps(steps: Mapping, picture: Image.Image) -> np.ndarray:
    """An RGB photo as these steps make it: float32 (3, px, px)."""
    px, mean = steps["image_px"], np.array(steps["mean"])
    size = _resized_to(steps, picture.size)
    resized = picture.resize(size, Image.Resampling[steps["filter"].upper()])
    square = Image.new("RGB", (px, px), tuple((255 * mean).round().astype(int).tolist()))
    spare = 0 if steps["pad"] == "right and below" else 0.5
    square.paste(resized, tuple(int(spare * (px - n)) if n < px else -_cut(steps, n) for n in size))
    values = np.asarray(square) * steps["rescale_factor"]
    return ((values - mean) / np.array(steps["std"])).astype(np.float32).transpose(2, 0, 1)


def fast_preprocess(processor) -> Callable[[Image.Image], torch.Tensor]:
    """What gives float32 (3, px, px) of an RGB photo within a level of 255 of the processor, in a third of its time.

    It resizes as training crops are resized. The processor itself where it has a way of its own, or pads, or has a
    filter that torch lacks; looked at with a drawn picture.
    """

    def own(picture: Image.Image) -> torch.Tensor:
        return torch.from_numpy(preprocess(picture, processor))

    noise = np.random.default_rng(0).integers(0, 256, (192, 256, 3), np.uint8)  # fine enough to tell filters apart
    drawn = Image.fromarray(noise).resize((512, 384), Image.Resampling.BICUBIC)
    rows, px = own(drawn).shape[1:]
    found = preprocessing_steps(processor, drawn, px) if rows == px else {}
    name = crops.FILTERS.get(Image.Resampling[found["filter"].upper()]) if "filter" in found else None
    if name is None or found["resize_px"] < px or found["pad"]:
        return own
    mean, std = (torch.tensor(found[of], dtype=torch.float32).view(3, 1, 1) for of in ("mean", "std"))
    scale, shift = found["rescale_factor"] / std, -mean / std

    def resized(picture: Image.Image) -> torch.Tensor:
        columns, rows = _resized_to(found, picture.size)
        levels = crops.resize(np.array(picture), (rows, columns), name)
        top, left = _cut(found, rows), _cut(found, columns)
        return torch.addcmul(shift, levels[:, top : top + px, left : left + px].float(), scale)

    return resized


def _resized_to(steps: Mapping, size: tuple[int, int]) -> tuple[int, int]:
    """Width and height to which the steps resize a photo of this width and height."""
    to, nearest = steps["resize_px"], round if steps["rounding"] == "nearest" else int
    scale = {BOTH: None, SHORTER: (int, min(size)), LONGER: (nearest, max(size))}[steps["resize"]]
    return tuple(scale[0](to * length / scale[1]) if scale else to for length in size)


def _cut(steps: Mapping, length: int) -> int:
    """Px before the middle of a resized side."""
    return (round if steps["rounding"] == "nearest" else int)((length - steps["image_px"]) / 2)


def preprocess(picture: Image.Image, processor) -> np.ndarray:
    """What a network is shown of a picture: float32 (3, height, width)."""
    return processor(images=picture, return_tensors="pt")["pixel_values"][0].numpy()


def _way(processor, settings: Mapping, px: int) -> dict | None:
    """{"resize", "resize_px", "filter", "crop", "pad", "rounding"} by the settings; None when they mean another way."""
    resize, to = _resize(processor, settings, px)
    if resize is None:
        return None
    is_timm = hasattr(processor, "data_config")
    return {
        "resize": resize,
        "resize_px": to,
        "filter": Image.Resampling(crops.resample_filter(processor)).name.lower(),
        "crop": "middle" if resize == SHORTER or to > px else None,
        "pad": None if resize != LONGER else "around" if is_timm else "right and below",
        "rounding": "nearest" if is_timm else "down",
    }


def _resize(processor, settings: Mapping, px: int) -> tuple[str | None, int]:
    """Which side is brought to how many pixels."""
    if hasattr(processor, "data_config"):  # timm's
        told = processor.data_config
        side = {"squash": BOTH, "border": LONGER, "center": SHORTER}.get(told["crop_mode"])
        return side, math.floor(px / told["crop_pct"])
    size = settings.get("size") or {}
    edge = size.get("shortest_edge")
    if type(processor).__name__.startswith("ConvNext"):
        return (BOTH, edge) if edge >= 384 else (SHORTER, int(edge / settings["crop_pct"]))
    for names, side in ((("height", "width"), BOTH), (("max_height", "max_width"), LONGER)):
        if len({size.get(name) for name in names} - {None}) == 1:
            return side, size[names[0]]
    return (SHORTER, edge) if edge and "longest_edge" not in size else (None, 0)


def _in_words(steps: Mapping) -> str:
    px, to = steps["image_px"], steps["resize_px"]
    size = f"{to} x {to} px whatever its shape" if steps["resize"] == BOTH else f"{to} px on its {steps['resize']}"
    middle = f", the {px} x {px} px in the middle" if steps["crop"] else ""
    filled = f", filled up with the mean colour {steps['pad']} to {px} x {px} px" if steps["pad"] else ""
    return (
        f"upright RGB, resized to {size} ({steps['filter']}){middle}{filled}, divided by 255, less mean "
        f"{steps['mean']}, divided by std {steps['std']}, channels first"
    )


def evaluation_pixels(source: str | bytes, processor) -> torch.Tensor:
    """Float (3, px, px) of one image, through the image processor as `pipeline` calls it."""
    return processor(images=decoding.load_rgb(source), return_tensors="pt")["pixel_values"][0]


def fast_pixels(
    processor, process: Callable[[Image.Image], torch.Tensor] | None = None
) -> Callable[[str | bytes], torch.Tensor]:
    """As `evaluation_pixels` for one processor, with large JPEGs decoded at a smaller scale: nearly the same values.

    The scale is the smallest at which the shorter side has 1.25 times the pixels that the processor resizes it to,
    measured here, once. Other formats, smaller photos, and all where the processor takes the nearest pixel, which has
    to be the photo's own, give the very same values, unless `process` is given: what makes them of a decoded photo in
    place of the processor.
    """
    ramp_px = 256  # a level each, from top to bottom
    colours = (Image.linear_gradient("L"), *(Image.new("L", (ramp_px, ramp_px), level) for level in (0, 255)))
    shown = [processor(images=c.convert("RGB"), return_tensors="pt")["pixel_values"][0, 0] for c in colours]
    middle = len(shown[0]) // 2
    top, bottom = middle // 2, middle + middle // 2  # within whatever is cropped or padded
    ramp, black, white = (rows[[top, bottom], middle].double() for rows in shown)
    levels = 255 * float(((ramp - black) / (white - black)).diff())  # by so many it rises from top to bottom
    # At 1 in place of 1.25, 1 label of 357 photos changed at 192 px; at 1.25 none, and none at 1.5.
    short_px = round(1.25 * ramp_px * (bottom - top) / levels)
    scales = resample_filter(processor) != Image.Resampling.NEAREST

    def read(source: str | bytes) -> torch.Tensor:
        with decoding.open_image(source) as image:
            size = decoding.displayed_size(image)
            scale = short_px / min(size)
            pixels = decoding.to_rgb(image, (size[0] * scale, size[1] * scale) if scales and scale < 1 else None)
        return process(pixels) if process else processor(images=pixels, return_tensors="pt")["pixel_values"][0]

    return read
