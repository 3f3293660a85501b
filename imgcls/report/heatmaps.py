"""Images as a network sees them, with the areas that led to its answer highlighted."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image
from transformers import BaseImageProcessor, PreTrainedModel

from imgcls.dataloading.preprocessing import evaluation_pixels
from imgcls.errors import ImageError
from imgcls.models import saliency
from imgcls.report import html_page

log = logging.getLogger(__name__)

HEATMAP_PX = 160


def heatmap_pictures(
    network: PreTrainedModel, processor: BaseImageProcessor, sources: Sequence[str | bytes], targets: Sequence[int]
) -> list[str] | None:
    """For each image a JPEG in base64, bright where it led to its target class; None if `saliency` cannot explain it.

    sources: path or encoded bytes of each image. targets: class indices.
    """
    device = next(network.parameters()).device
    pictures = []
    for source, target in zip(sources, targets, strict=True):
        try:
            pixels = evaluation_pixels(source, processor)
            maps = saliency.heat_maps(network, pixels[None].to(device), [target])
        except (RuntimeError, TypeError, AttributeError, ImageError) as error:  # any model of the Hub may come here
            log.info("report: no heat maps, because %s cannot be explained (%s)", type(network).__name__, error)
            return None
        if maps is None:
            return None
        pictures.append(html_page.jpeg(_overlay(pixels, maps[0])))
    return pictures


def _overlay(pixels: torch.Tensor, heat: torch.Tensor) -> Image.Image:
    """The network's input, float (3, H, W), darkened where `heat`, float (H', W') of 0..1, is low."""
    low, high = pixels.amin(), pixels.amax()  # undoes the normalisation closely enough for a picture
    image = ((pixels - low) / (high - low).clamp(min=1e-6)).permute(1, 2, 0).numpy()
    size = (HEATMAP_PX, HEATMAP_PX)
    picture = np.asarray(Image.fromarray((255 * image).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)) / 255
    resized = Image.fromarray(heat.float().numpy()).resize(size, Image.Resampling.BICUBIC)
    strength = np.clip(np.asarray(resized), 0, 1)[..., None]
    colour = colormaps["inferno"](strength[..., 0])[..., :3]
    mixed = picture * (0.35 + 0.35 * strength) + 0.45 * strength * colour
    return Image.fromarray((255 * np.clip(mixed, 0, 1)).astype(np.uint8))
