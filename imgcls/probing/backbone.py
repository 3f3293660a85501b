"""A frozen pretrained network, and whether a CPU computes its features in bf16."""

from __future__ import annotations

import functools
import logging
import time
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel

from imgcls.models import classifier, input_size, model_config
from imgcls.models.feature_extraction import extract_features
from imgcls.models.input_size import InputFormat
from imgcls.models.source import ModelSource
from imgcls.system import cpu

log = logging.getLogger(__name__)

TRIAL_IMAGES, WARM_UP_IMAGES, TRIAL_S = 8, 2, 0.15
# Mean difference of bf16 features from float32's, relative to their mean size. A MobileNetV3-Small's differ by a
# quarter, and a probe on them lost 0.012 of accuracy (standard error 0.007) and 0.030 of the loss (0.004; five seeds of
# five folds of 357 photos).
MAX_BF16_DIFFERENCE = 0.03


class Backbone:
    """A pretrained network with an input format: its configuration at once, its weights when they are first used.

    input_format: None for the checkpoint's own.
    """

    def __init__(
        self, source: ModelSource, classes: list[str], device: torch.device, input_format: InputFormat | None = None
    ):
        image_px, aspect = (None, None) if input_format is None else (input_format.image_px, input_format.aspect)
        self.config, self.processor = model_config.load_fitted_config(source, classes, image_px, aspect)
        self.image_px = input_size.input_side(self.config, self.processor)
        self.family = model_config.model_family(self.config)
        self._device = device
        self._build = functools.partial(classifier.build_classifier, source, classes, image_px=image_px, aspect=aspect)

    @functools.cached_property
    def network(self) -> PreTrainedModel:
        """The network in evaluation mode, on the device."""
        network = self._build().network
        module = cast(nn.Module, network).to(self._device)
        module.to(memory_format=classifier.memory_layout(network)).eval()
        return network


@torch.inference_mode()
def bf16_speedup(network: nn.Module, pixels: torch.Tensor) -> float:
    """How many times as fast as in float32 a CPU thread computes features in bf16; 0 if bf16 should not be used.

    That is where it is not clearly faster, or the features differ too much. pixels: (TRIAL_IMAGES, 3, px, px).
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as `inference.stream_outputs` does
    try:
        float32_s, bf16_s, difference = _compare_precisions(network, pixels)
    finally:
        torch.set_num_threads(threads)
    speedup = float32_s / bf16_s
    uses_bf16 = speedup >= cpu.BF16_MIN_SPEEDUP and difference <= MAX_BF16_DIFFERENCE
    log.info(
        "features: using %s (bf16 is %.2f times as fast on this processor, its features differ by %.1f %%)",
        "bf16" if uses_bf16 else "float32",
        speedup,
        100 * difference,
    )
    return speedup if uses_bf16 else 0.0


def _compare_precisions(network: nn.Module, pixels: torch.Tensor) -> tuple[float, float, float]:
    """Seconds of the fastest pass in float32 and in bf16, and the relative mean difference of the features."""
    with extract_features(network) as extract:

        def timed(batch: torch.Tensor, lower: bool) -> tuple[torch.Tensor, float]:
            started = time.perf_counter()
            features = extract(batch, lower).float()
            return features, time.perf_counter() - started

        # The first pass with a number of images is slower, since it initialises what later ones use. Slow networks are
        # tried with few images.
        batch = pixels[:WARM_UP_IMAGES]
        if max([timed(batch, lower)[1] for lower in (False, True)]) < TRIAL_S:
            batch = pixels
            for lower in (False, True):
                timed(batch, lower)
        float32_times, bf16_times = [], []
        while True:
            float32, seconds = timed(batch, False)
            float32_times.append(seconds)
            bf16, seconds = timed(batch, True)
            bf16_times.append(seconds)
            if sum(float32_times) + sum(bf16_times) >= TRIAL_S:
                break
    difference = (bf16 - float32).abs().mean() / float32.abs().mean()
    return min(float32_times), min(bf16_times), float(difference)
