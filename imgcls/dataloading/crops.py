"""From a row to pixels, on the host: decode once, crop, resize, to uint8; augmentation does the rest on the device.

Training never shows a full-size photo to an image processor (100 ms and more each) and moves only uint8.
Evaluation is the checkpoint's own image processor, exactly. What is kept of an image is a function of its file, so it
is the same in every epoch and run.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from imgcls.data import decoding
from imgcls.dataloading.random_params import crop_boxes

GRAY = 118  # the mean of ImageNet, with which image processors pad
# Filters that torch has for uint8, antialiased as Pillow's and up to four times as fast; Pillow has the others.
FILTERS = {Image.Resampling.BILINEAR: "bilinear", Image.Resampling.BICUBIC: "bicubic"}


def read_crop(
    source: str | bytes,
    numbers: np.ndarray,
    share: tuple[float, float],
    px: int,
    resample: int,
    padded: bool = False,
    mirrored: Sequence[bool] = (False, False),
) -> np.ndarray:
    """A random crop of an image as uint8 (3, px, px), decoded at the smallest JPEG scale that covers it.

    The box is drawn from the header's size, so neither crop nor result depend on the decoder's scale.
    Nearest-neighbour processors see single pixels, so there the image is decoded in full. numbers: its draws. The rest
    as for `crop`.
    """
    with decoding.open_image(source) as image:
        size = decoding.displayed_size(image)
        box = crop_boxes(numbers[None], np.array([size]), share, padded)[0]
        scale = min(1.0, max(px / (box[2] - box[0]), px / (box[3] - box[1])))
        at_least = None if resample == Image.Resampling.NEAREST else (size[0] * scale, size[1] * scale)
        pixels = decoding.to_rgb(image, at_least)
    return crop(np.array(pixels), box, size, px, resample, padded, mirrored)


def crop(
    pixels: np.ndarray,
    box: tuple[float, ...],
    size: tuple[int, int],
    px: int,
    resample: int,
    padded: bool = False,
    mirrored: Sequence[bool] = (False, False),
) -> np.ndarray:
    """The part of a photo in a box, resized: uint8 (3, px, px).

    pixels: uint8 (rows, columns, 3), the photo at any scale. box: (left, top, right, bottom) in px of `size`, which is
    the photo's own (width, height), or with `padded` of the gray square in whose middle it is. mirrored: left-right
    and upside down.
    """
    rows, columns = pixels.shape[:2]
    if padded:
        side = max(rows, columns)
        square = np.full((side, side, 3), GRAY, np.uint8)
        top, left = (side - rows) // 2, (side - columns) // 2
        square[top : top + rows, left : left + columns] = pixels
        pixels, size, rows, columns = square, (max(size),) * 2, side, side
    sx, sy = columns / size[0], rows / size[1]
    name = FILTERS.get(Image.Resampling(resample))
    if name is None:
        scaled = (box[0] * sx, box[1] * sy, min(box[2] * sx, columns), min(box[3] * sy, rows))
        picture = Image.fromarray(pixels).resize((px, px), Image.Resampling(resample), box=scaled)
        return _planes(np.asarray(picture), mirrored)
    scaled = np.array([[box[0] * sx, box[1] * sy, box[2] * sx, box[3] * sy]])
    left, top, right, bottom = integer_boxes(scaled, np.array([[columns, rows]]))[0]
    seen = resize(pixels[top:bottom, left:right], (px, px), name)
    return _planes(seen.permute(1, 2, 0).numpy(), mirrored)


def resize(pixels: np.ndarray, size: tuple[int, int], name: str) -> torch.Tensor:
    """A photo, uint8 (rows, columns, 3), at another size (rows, columns), antialiased: uint8 (3, rows, columns).

    name: a filter of FILTERS. The batch of one comes first, so that torch sees the layout of photos, which it resizes
    in two thirds of the time.
    """
    photo = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)
    return interpolate(photo, size, mode=name, antialias=True, align_corners=False)[0]


def _planes(pixels: np.ndarray, mirrored: Sequence[bool]) -> np.ndarray:
    """(rows, columns, 3) -> (3, rows, columns), mirrored left-right and upside down on the way, which costs nothing."""
    right, down = (-1 if drawn else 1 for drawn in mirrored)
    return np.ascontiguousarray(pixels[::down, ::right].transpose(2, 0, 1))


def integer_boxes(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Boxes (B, 4) in whole px, at least one each way, within photos of these widths and heights (B, 2)."""
    rounded = boxes.round().astype(int)
    corners = np.minimum(rounded[:, :2], sizes - 1)
    return np.hstack([corners, np.maximum(rounded[:, 2:], corners + 1)])


def resample_filter(processor) -> int:
    """Pillow's number of the filter with which the processor resizes, for training crops of the same look."""
    if hasattr(processor, "data_config"):
        return int(Image.Resampling[processor.data_config["interpolation"].upper()])
    return int(getattr(processor, "resample", Image.Resampling.BICUBIC) or 0)
