"""Feature vectors of a classifier: the input of its head."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import torch
from torch import nn

from imgcls.models import classifier_head


@contextlib.contextmanager
def extract_features(network: nn.Module) -> Iterator[Callable[[torch.Tensor, bool], torch.Tensor]]:
    """Yield a function (pixels (n, 3, px, px), whether to compute in bf16) -> feature vectors (n, D).

    Features are the input of the head, the last linear layer. Several threads may call the function at once. Raises
    ModelError when the head is not one linear layer.
    """
    latest = threading.local()
    hook = classifier_head.head_of(network).register_forward_pre_hook(
        lambda _, inputs: setattr(latest, "features", inputs[0].flatten(1))
    )

    def features(pixels: torch.Tensor, bf16: bool) -> torch.Tensor:
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=bf16):
            network(pixel_values=pixels)
        return latest.features

    try:
        yield features
    finally:
        hook.remove()
