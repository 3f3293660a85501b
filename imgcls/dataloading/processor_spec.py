"""What an image processor does to an image, measured by showing it test images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from imgcls.models import input_size

if TYPE_CHECKING:
    from transformers import BaseImageProcessor

PROBE_PX = 64  # side of the image that tells the size of the output
RAMP_PX = 256  # side of the image with one level a row that tells the size before the crop
PATCHES = 4  # patches of one level along each side of a test image


@dataclass(frozen=True, eq=False)
class ProcessorSpec:
    """Size, aspect, filter and normalisation of an image processor, each measured once, when it is first needed.

    `image_mean` and `image_std` do not describe the normalisation of every checkpoint: EfficientNet's processor
    divides by the standard deviation twice. The processor must not be changed afterwards.
    """

    processor: BaseImageProcessor

    def pixel_values(self, image: Image.Image) -> torch.Tensor:
        """The network's input for an RGB image: float32 (3, height, width)."""
        return self.processor(images=image, return_tensors="pt")["pixel_values"][0]

    @cached_property
    def image_px(self) -> int:
        """Side of the output for square images, in pixels."""
        return self.pixel_values(Image.new("RGB", (PROBE_PX, PROBE_PX))).shape[-1]

    @cached_property
    def aspect(self) -> str | None:
        """How non-square images are made square: "crop", "pad" or "squash"; None for any other way."""
        return input_size.detect_aspect(self.processor, self.image_px)

    @property
    def resample(self) -> Image.Resampling:
        """The filter with which images are resized."""
        if self.timm_config is not None:
            return Image.Resampling[self.timm_config["interpolation"].upper()]
        return Image.Resampling(getattr(self.processor, "resample", Image.Resampling.BICUBIC) or 0)

    @property
    def timm_config(self) -> Mapping | None:
        """The settings of a timm model's processor, which has no attributes for them; None for all others."""
        return getattr(self.processor, "data_config", None)

    @cached_property
    def black(self) -> torch.Tensor:
        """The output for black, float32 (3,)."""
        return self._plain((0, 0, 0))

    @cached_property
    def white(self) -> torch.Tensor:
        """The output for white, float32 (3,)."""
        return self._plain((255, 255, 255))

    @cached_property
    def is_bgr(self) -> bool:
        """Whether the output's channels are blue, green and red, as MobileViT's processor orders them."""
        return int((self._plain((255, 0, 0)) - self.black).abs().argmax()) == 2

    @property
    def shift(self) -> torch.Tensor:
        """Float32 (3, 1, 1): the output is level * scale + shift, for levels 0 to 255."""
        return self.black.view(3, 1, 1)

    @property
    def scale(self) -> torch.Tensor:
        """Float32 (3, 1, 1), see `shift`."""
        return (self.white - self.black).view(3, 1, 1) / 255

    @cached_property
    def level_table(self) -> LevelTable:
        """The exact output for each uint8 level, measured on images with patches of all levels."""
        images = []
        for first in range(0, 256, PATCHES**2):
            levels = np.arange(first, first + PATCHES**2, dtype=np.uint8).reshape(PATCHES, PATCHES)
            patches = np.kron(levels, np.ones((self.image_px // PATCHES + 1,) * 2, np.uint8))
            images.append(Image.fromarray(patches).convert("RGB"))
        outputs = torch.stack([self.pixel_values(image) for image in images])
        # the middle of each patch, cropped or not
        rows, columns = ([round((i + 0.5) * n / PATCHES) for i in range(PATCHES)] for n in outputs.shape[2:])
        return LevelTable(outputs[:, :, rows][..., columns].permute(1, 0, 2, 3).reshape(3, 256).float())

    @cached_property
    def decode_px(self) -> int:
        """Shorter side to which large JPEGs can be decoded: 1.25 times the side to which images are resized.

        At 1 in place of 1.25, 1 label of 357 photos changed at 192 px; at 1.25 none, and none at 1.5.
        """
        column = self.pixel_values(Image.linear_gradient("L").convert("RGB"))[0]
        middle = len(column) // 2
        top, bottom = middle // 2, middle + middle // 2  # within any crop or padding
        ramp, black, white = column[[top, bottom], middle].double(), self.black[0].double(), self.white[0].double()
        levels = 255 * float(((ramp - black) / (white - black)).diff())  # between the rows top and bottom
        return round(1.25 * RAMP_PX * (bottom - top) / levels)

    @cached_property
    def settings(self) -> str:
        """Everything besides the image that the output depends on, as part of cache keys."""
        libraries = ("pillow", "timm", "torch", "torchvision", "transformers")
        return f"{self.processor!r} {[f'{name} {version(name)}' for name in libraries]}"

    def _plain(self, colour: tuple[int, int, int]) -> torch.Tensor:
        """The output for an image of one colour, float32 (3,)."""
        output = self.pixel_values(Image.new("RGB", (self.image_px, self.image_px), colour))
        return output[:, output.shape[1] // 2, output.shape[2] // 2]


@dataclass(frozen=True, eq=False)
class LevelTable:
    """The float that an image processor gives each uint8 level of a channel, so that uint8 can replace its output.

    values: float32 (3, 256).
    """

    values: torch.Tensor

    def to_uint8(self, pixels: torch.Tensor) -> torch.Tensor | None:
        """The uint8 (3, H, W) from which `to_float` restores exactly these floats; None if there is none."""
        shift = self.values[:, 0].view(3, 1, 1)
        scale = (self.values[:, 255].view(3, 1, 1) - shift) / 255
        levels = torch.addcmul(0.5 - shift / scale, pixels, 1 / scale).to(torch.uint8)
        return levels if torch.equal(self.to_float(levels), pixels) else None

    def to_float(self, levels: torch.Tensor) -> torch.Tensor:
        """The float32 (3, H, W) of uint8 (3, H, W)."""
        # numpy's take needs a fifth of the time of torch's indexing
        channels = zip(self.values.numpy(), levels.numpy(), strict=True)
        return torch.from_numpy(np.stack([values.take(channel) for values, channel in channels]))

    def pack(self, pixels: torch.Tensor) -> np.ndarray:
        """Pixels for the cache: uint8 (3, H, W), or (12, H, W), the floats' bytes, where levels would lose something.

        A padding's gray is not one of the levels.
        """
        levels = self.to_uint8(pixels)
        if levels is None:
            return pixels.numpy().view(np.uint8).reshape(12, *pixels.shape[1:])
        return levels.numpy()

    def unpack(self, packed: np.ndarray) -> torch.Tensor:
        """The float32 (3, H, W) given to `pack`."""
        if len(packed) == 3:
            return self.to_float(torch.from_numpy(packed))
        return torch.from_numpy(packed.view(np.float32).reshape(3, *packed.shape[1:]))
