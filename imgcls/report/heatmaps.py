"""Images as a network saw them, with what spoke for its answer laid over."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image
from torch import nn

from imgcls.dataloading.preprocessing import evaluation_pixels
from imgcls.errors import ImageError
from imgcls.models import saliency
from imgcls.report import html_page

log = logging.getLogger(__name__)

SHOWN_PX = 160


def heatmap_pictures(
    network: nn.Module, processor, sources: Sequence[str | bytes], targets: Sequence[int]
) -> list[str] | None:
    """A JPEG in base64 of each image, what spoke for its target bright and the rest dark; None for a network whose
    answers `saliency` cannot explain."""
    device = next(network.parameters()).device
    found = []
    for source, target in zip(sources, targets, strict=True):
        try:
            pixels = evaluation_pixels(source, processor)
            maps = saliency.heat_maps(network, pixels[None].to(device), [target])
        except (RuntimeError, TypeError, AttributeError, ImageError) as error:  # any Hub id may be given
            log.info("report: without heat maps, since %s cannot be explained (%s)", type(network).__name__, error)
            return None
        if maps is None:
            return None
        found.append(html_page.jpeg(_laid_over(pixels, maps[0])))
    return found


def _laid_over(pixels: torch.Tensor, heat: torch.Tensor) -> Image.Image:
    low, high = pixels.amin(), pixels.amax()  # what the processor normalised, brought back to 0..1 near enough
    seen = ((pixels - low) / (high - low).clamp(min=1e-6)).permute(1, 2, 0).numpy()
    size = (SHOWN_PX, SHOWN_PX)
    picture = np.asarray(Image.fromarray((255 * seen).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)) / 255
    strength = Image.fromarray(heat.float().numpy()).resize(size, Image.Resampling.BICUBIC)
    share = np.clip(np.asarray(strength), 0, 1)[..., None]
    colour = colormaps["inferno"](share[..., 0])[..., :3]
    mixed = picture * (0.35 + 0.35 * share) + 0.45 * share * colour
    return Image.fromarray((255 * np.clip(mixed, 0, 1)).astype(np.uint8))
