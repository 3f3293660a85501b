"""The float value that an image processor gives each of the 256 levels of a channel, so that uint8 says all of it."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

SIDE = 4  # patches of a colour along each side of a picture that the processor is shown


class LevelTable:
    """values: float32 (3, 256), what the processor makes of level 0 to 255 in each channel.

    Read off the processor itself, by showing it patches of all levels, because image_mean and image_std do not tell it
    for every checkpoint. px: side of its output.
    """

    def __init__(self, processor, px: int):
        patches = SIDE * SIDE
        shown = []
        for first in range(0, 256, patches):
            levels = np.arange(first, first + patches, dtype=np.uint8).reshape(SIDE, SIDE)
            shown.append(Image.fromarray(np.kron(levels, np.ones((px // SIDE + 1,) * 2, np.uint8))).convert("RGB"))
        seen = torch.stack([processor(images=picture, return_tensors="pt")["pixel_values"][0] for picture in shown])
        middles = [round((i + 0.5) * px / SIDE) for i in range(SIDE)]  # within each patch, cropped or not
        self.values = seen[:, :, middles][..., middles].permute(1, 0, 2, 3).reshape(3, 256).float()
        self.shift = self.values[:, 0].view(3, 1, 1)
        self.scale = (self.values[:, 255].view(3, 1, 1) - self.shift) / 255

    def to_uint8(self, pixels: torch.Tensor) -> torch.Tensor | None:
        """uint8 (3, H, W) from which `to_float` gives these very floats; None where it would not."""
        levels = torch.addcmul(0.5 - self.shift / self.scale, pixels, 1 / self.scale).to(torch.uint8)
        return levels if torch.equal(self.to_float(levels), pixels) else None

    def to_float(self, levels: torch.Tensor) -> torch.Tensor:
        """uint8 (3, H, W) -> float32 (3, H, W)."""
        # numpy's take needs a fifth of the time of torch's indexing
        channels = zip(self.values.numpy(), levels.numpy(), strict=True)
        return torch.from_numpy(np.stack([values.take(channel) for values, channel in channels]))
