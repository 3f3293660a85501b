"""Kernels by Triton, which CUDA builds of torch bring, for what torch's operations do in many passes over the pixels.

`machine.kernels` says whether they can be had; without them `resident` and `augmentation` compute the same with torch.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

ROWS, COLUMNS, WARPS = 4, 32, 1  # px of a program; 16 x 32 with 4 warps took 2.5 times as long on an H200
BLOCK = 4096  # px of a program that only copies


def check(device: torch.device) -> None:
    """Compile each once, for next to nothing. Raises what Triton raises where it cannot."""
    zeros = torch.zeros(1, 3, 8, 8, device=device)
    first, draws, ones = (
        torch.zeros(1, dtype=torch.int64, device=device),
        torch.zeros(1, 10, device=device),
        zeros[0, :, 0, 0] + 1,
    )
    picked(zeros.byte(), first, torch.float16)
    weights(first, first + 8, draws[:, 0], 8, 8, 2.0, torch.float16)
    varied(zeros.byte(), draws, ones, ones, torch.contiguous_format)


def picked(photos: torch.Tensor, indices: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    """Photos of some indices as floats of a kind, (B, ...). photos: uint8 (N, ...). indices: int64 (B,)."""
    found = torch.empty(len(indices), *photos.shape[1:], dtype=kind, device=photos.device)
    each = found[0].numel()
    _pick[len(indices), triton.cdiv(each, BLOCK)](photos, indices, found, each, BLOCK)
    return found


@triton.jit
def _pick(photos, indices, found, each, BLOCK: tl.constexpr):
    image, index = tl.program_id(0).to(tl.int64), tl.load(indices + tl.program_id(0))
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < each
    levels = tl.load(photos + index * each + at, mask=inside)
    tl.store(found + image * each + at, levels.to(found.dtype.element_ty), mask=inside)


def weights(
    low: torch.Tensor,
    high: torch.Tensor,
    mirrored: torch.Tensor,
    count: int,
    px: int,
    reach: float,
    kind: torch.dtype,
) -> torch.Tensor:
    """As `resident.weights`."""
    found = torch.empty(len(low), px, count, dtype=kind, device=low.device)
    given = (low, high, low.stride(0), mirrored, mirrored.stride(0), found, count, px)
    _weigh[len(low), px](*given, CUBIC=reach == 2, SOURCES=triton.next_power_of_2(count))
    return found


@triton.jit
def _weigh(
    low, high, of_ends, mirrored, of_mirrored, found, count, px, CUBIC: tl.constexpr, SOURCES: tl.constexpr
):  # fmt: skip
    image, place = tl.program_id(0), tl.program_id(1)
    first, last = tl.load(low + image * of_ends).to(tl.float32), tl.load(high + image * of_ends).to(tl.float32)
    scale = (last - first) / px
    along = tl.where(tl.load(mirrored + image * of_mirrored) != 0, px - place - 0.5, place + 0.5)
    source = tl.arange(0, SOURCES)
    distance = tl.abs((source + 0.5 - first - along * scale) / tl.maximum(scale, 1.0))
    if CUBIC:
        near = (1.5 * distance - 2.5) * distance * distance + 1
        far = ((2.5 - 0.5 * distance) * distance - 4) * distance + 2
        weight = tl.where(distance < 1, near, tl.where(distance < 2, far, 0.0))
    else:
        weight = tl.maximum(1 - distance, 0.0)
    weight = tl.where((source >= first) & (source < last), weight, 0.0)
    weight = (weight / tl.sum(weight)).to(found.dtype.element_ty)
    tl.store(found + (image.to(tl.int64) * px + place) * count + source, weight, mask=source < count)


def varied(
    pixels: torch.Tensor,
    draws: torch.Tensor,
    shift: torch.Tensor,
    scale: torch.Tensor,
    layout: torch.memory_format,
    *,
    is_coloured: bool = True,
) -> torch.Tensor:
    """Rotated, coloured, normalised and erased as drawn: float32 (B, 3, H, W) in a memory layout.

    pixels: 0..255, (B, 3, H, W), uint8 or floats, px of a row side by side. draws: float32 (B, DRAWS). shift, scale:
    float32 (3,), the normalisation. is_coloured: contrasts were drawn.
    """
    count, _, height, width = pixels.shape
    gray = torch.zeros(count, device=pixels.device)
    found = torch.empty(pixels.shape, device=pixels.device, memory_format=layout)
    grid = (count, triton.cdiv(height, ROWS), triton.cdiv(width, COLUMNS))
    tile = {"HEIGHT": height, "WIDTH": width, "ROWS": ROWS, "COLUMNS": COLUMNS}
    source = (pixels, *pixels.stride()[:3], draws, draws.stride(0), gray)
    if is_coloured:
        _gray_means[grid](*source, **tile, num_warps=WARPS)
    _vary[grid](*source, shift, scale, found, *found.stride(), **tile, num_warps=WARPS)
    return found


@triton.jit
def _gray_means(
    pixels, of_image, of_colour, of_row, draws, of_draws, gray,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(0).to(tl.int64)
    y, x = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    drawn = draws + image * of_draws
    red, green, blue = _seen(pixels + image * of_image, of_colour, of_row, drawn, y, x, HEIGHT, WIDTH)
    inside = (y < HEIGHT)[:, None] & (x < WIDTH)[None, :]
    mean = tl.sum(tl.where(inside, _gray(red, green, blue), 0.0)) / (HEIGHT * WIDTH)
    tl.atomic_add(gray + image, mean)


@triton.jit
def _vary(
    pixels, of_image, of_colour, of_row, draws, of_draws, gray, shift, scale,
    found, to_image, to_colour, to_row, to_column,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(0).to(tl.int64)
    y, x = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    drawn = draws + image * of_draws
    red, green, blue = _seen(pixels + image * of_image, of_colour, of_row, drawn, y, x, HEIGHT, WIDTH)
    brightness, contrast, saturation = tl.load(drawn + 3), tl.load(drawn + 4), tl.load(drawn + 5)
    light = brightness * contrast
    rest = (1 - contrast) * brightness * tl.load(gray + image) + light * (1 - saturation) * _gray(red, green, blue)
    down, along = (y + 0.5) / HEIGHT, (x + 0.5) / WIDTH
    erased_rows = (down > tl.load(drawn + 7)) & (down < tl.load(drawn + 9))
    erased = erased_rows[:, None] & ((along > tl.load(drawn + 6)) & (along < tl.load(drawn + 8)))[None, :]
    inside = (y < HEIGHT)[:, None] & (x < WIDTH)[None, :]
    place = found + image * to_image + (y * to_row)[:, None] + (x * to_column)[None, :]
    colours = (red, green, blue)
    for c in tl.static_range(3):
        level = tl.minimum(tl.maximum(rest + light * saturation * colours[c], 0.0), 255.0)
        normal = tl.load(shift + c) + level * tl.load(scale + c)
        tl.store(place + c * to_colour, tl.where(erased, 0.0, normal), mask=inside)


@triton.jit
def _gray(red, green, blue):
    return 0.299 * red + 0.587 * green + 0.114 * blue  # as augmentation.LUMA


@triton.jit
def _seen(picture, of_colour, of_row, drawn, y, x, HEIGHT: tl.constexpr, WIDTH: tl.constexpr):
    """Red, green and blue, float32 tiles, of a picture that is rotated as drawn."""
    degrees = tl.load(drawn + 2)
    if degrees != 0:
        angle = degrees * 0.017453292519943295
        along, down = ((x + 0.5) * 2 / WIDTH - 1)[None, :], ((y + 0.5) * 2 / HEIGHT - 1)[:, None]
        cos, sin = tl.cos(angle), tl.sin(angle)
        left, right, rightness = _neighbours(along * cos - down * sin, WIDTH)
        top, bottom, bottomness = _neighbours(along * sin + down * cos, HEIGHT)
        red = _between(picture, of_row, left, right, rightness, top, bottom, bottomness)
        green = _between(picture + of_colour, of_row, left, right, rightness, top, bottom, bottomness)
        blue = _between(picture + 2 * of_colour, of_row, left, right, rightness, top, bottom, bottomness)
    else:
        row, column = tl.minimum(y, HEIGHT - 1), tl.minimum(x, WIDTH - 1)
        place = picture + (row * of_row)[:, None] + column[None, :]
        red = tl.load(place).to(tl.float32)
        green = tl.load(place + of_colour).to(tl.float32)
        blue = tl.load(place + 2 * of_colour).to(tl.float32)
    return red, green, blue


@triton.jit
def _neighbours(at, SIZE: tl.constexpr):
    """The px on either side of a place in -1..1, borders reflected as torch's grid_sample has it, and how near the
    second is."""
    place = tl.abs(((at + 1) * SIZE - 1) / 2 + 0.5)
    turns = tl.floor(place / SIZE)
    place -= turns * SIZE
    is_even = turns - 2 * tl.floor(turns / 2) == 0
    place = tl.where(is_even, place, SIZE - place) - 0.5
    place = tl.minimum(tl.maximum(place, 0.0), SIZE - 1.0)
    low = tl.floor(place)
    first = low.to(tl.int32)
    return first, tl.minimum(first + 1, SIZE - 1), place - low


@triton.jit
def _between(plane, of_row, left, right, rightness, top, bottom, bottomness):
    above = tl.load(plane + top * of_row + left).to(tl.float32) * (1 - rightness)
    above += tl.load(plane + top * of_row + right).to(tl.float32) * rightness
    below = tl.load(plane + bottom * of_row + left).to(tl.float32) * (1 - rightness)
    below += tl.load(plane + bottom * of_row + right).to(tl.float32) * rightness
    return above * (1 - bottomness) + below * bottomness
