"""From an image file to a training crop, on the CPU: decode once, crop, resize, to uint8.

Training never shows a full-size photo to an image processor (100 ms and more each) and moves only uint8 to the device,
where `augmentation` does the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from imgcls.data import decoding
from imgcls.dataloading.random_params import crop_boxes

GRAY = 118  # the mean of ImageNet, with which image processors pad
# Filters that torch has for uint8, antialiased as Pillow's and up to four times as fast; Pillow has the others.
TORCH_FILTERS = {Image.Resampling.BILINEAR: "bilinear", Image.Resampling.BICUBIC: "bicubic"}


@dataclass(frozen=True)
class CropSpec:
    """How photos become training crops; `AugmentationPlan.crop_area` has their area."""

    px: int  # side of a crop after resizing
    resample: Image.Resampling  # filter, the image processor's own
    padded: bool = False  # crops of the square around the photo, for an image processor that pads
    cache_px: int | None = None  # photos are first shrunk to this shorter side, and cached; None: cropped from the file


def read_crop(
    source: str | bytes,
    uniforms: np.ndarray,
    area: tuple[float, float],
    spec: CropSpec,
    flips: Sequence[bool] | np.ndarray = (False, False),
) -> np.ndarray:
    """A random crop of an image as uint8 (3, px, px), decoded at the smallest JPEG scale that covers it.

    The box depends on the header's size, so neither crop nor result depend on the decoder's scale. For the
    nearest-neighbour filter, which takes single pixels, the image is decoded in full. uniforms: (UNIFORMS_PER_IMAGE,).
    area: see `crop_boxes`. flips: see `crop_and_resize`.
    """
    with decoding.open_image(source) as image:
        size = decoding.displayed_size(image)
        box = crop_boxes(uniforms[None], np.array([size]), area, spec.padded)[0]
        scale = min(1.0, max(spec.px / (box[2] - box[0]), spec.px / (box[3] - box[1])))
        takes_nearest = spec.resample == Image.Resampling.NEAREST
        pixels = decoding.to_rgb(image, None if takes_nearest else (size[0] * scale, size[1] * scale))
    return crop_and_resize(np.array(pixels), box, size, spec, flips)


def crop_and_resize(
    pixels: np.ndarray,
    box: Sequence[float],
    size: Sequence[int],
    spec: CropSpec,
    flips: Sequence[bool] | np.ndarray = (False, False),
) -> np.ndarray:
    """The part of a photo in a box, resized: uint8 (3, px, px).

    pixels: uint8 (rows, columns, 3), the photo at any scale. box: (left, top, right, bottom) in px of `size`, which is
    the photo's own (width, height); with `padded` in px of the gray square around it. flips: left-right, upside down.
    """
    if spec.padded:
        pixels, size = _padded_to_square(pixels), (max(size),) * 2
    rows, columns = pixels.shape[:2]
    sx, sy = columns / size[0], rows / size[1]
    left, top, right, bottom = box[0] * sx, box[1] * sy, box[2] * sx, box[3] * sy
    filter_name = TORCH_FILTERS.get(spec.resample)
    if filter_name is None:
        box = (left, top, min(right, columns), min(bottom, rows))
        resized = Image.fromarray(pixels).resize((spec.px, spec.px), spec.resample, box=box)
        return _to_planes(np.asarray(resized), flips)
    left, top, right, bottom = integer_boxes(np.array([[left, top, right, bottom]]), np.array([[columns, rows]]))[0]
    resized = resize(pixels[top:bottom, left:right], (spec.px, spec.px), filter_name)
    return _to_planes(resized.permute(1, 2, 0).numpy(), flips)


def resize(pixels: np.ndarray, size: tuple[int, int], filter_name: str) -> torch.Tensor:
    """A photo, uint8 (rows, columns, 3), at another size (rows, columns), antialiased: uint8 (3, rows, columns).

    filter_name: one of TORCH_FILTERS. The batch of one comes first, so that torch sees the layout of photos, which it
    resizes in two thirds of the time.
    """
    photo = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)
    return interpolate(photo, size, mode=filter_name, antialias=True, align_corners=False)[0]


def integer_boxes(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Boxes (B, 4) rounded to whole px, at least one each way, within photos of these widths and heights (B, 2)."""
    rounded = boxes.round().astype(int)
    corners = np.minimum(rounded[:, :2], sizes - 1)
    return np.hstack([corners, np.maximum(rounded[:, 2:], corners + 1)])


def _padded_to_square(pixels: np.ndarray) -> np.ndarray:
    """A photo, uint8 (rows, columns, 3), in the middle of a gray square."""
    rows, columns = pixels.shape[:2]
    side = max(rows, columns)
    square = np.full((side, side, 3), GRAY, np.uint8)
    top, left = (side - rows) // 2, (side - columns) // 2
    square[top : top + rows, left : left + columns] = pixels
    return square


def _to_planes(pixels: np.ndarray, flips: Sequence[bool] | np.ndarray) -> np.ndarray:
    """(rows, columns, 3) -> (3, rows, columns), flipped left-right and upside down on the way, which costs nothing."""
    column_step, row_step = (-1 if is_flipped else 1 for is_flipped in flips)
    return np.ascontiguousarray(pixels[::row_step, ::column_step].transpose(2, 0, 1))
