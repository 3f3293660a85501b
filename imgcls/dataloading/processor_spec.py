"""What has to be done to a photo before a network sees it, in plain values and words that need no library of ours."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from PIL import Image

from imgcls.dataloading import crops

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
