"""Saliency maps: which regions of an image support the score of a class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel


def heat_maps(network: PreTrainedModel, pixels: torch.Tensor, targets: Sequence[int]) -> torch.Tensor | None:
    """Heat maps of the target classes, float (N, h, w) in 0..1, in the geometry of the input.

    pixels: float (N, 3, px, px), as the image processor returns them. targets: one class index an image.
    Transformers with global attention: relevance propagated through attention and its gradients (Chefer et al. 2021,
    "Generic attention-model explainability", equations 5 and 6). Networks with square feature maps: Grad-CAM on the
    last of them (Selvaraju et al. 2017). Returns None for a network that neither method applies to.
    """
    network.eval()
    classes = torch.as_tensor(targets, device=pixels.device)
    if getattr(network.config, "num_attention_heads", None):
        maps = _attention_relevance(network, pixels, classes)
    else:
        layer = _last_feature_map(network, pixels[:1])
        maps = None if layer is None else _grad_cam(network, layer, pixels, classes)
    if maps is None:
        return None
    maps = maps.clamp(min=0)
    return (maps / maps.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)).cpu()


def _attention_relevance(network: PreTrainedModel, pixels: torch.Tensor, classes: torch.Tensor) -> torch.Tensor | None:
    """Relevance of each patch, float (N, h, w); None unless all layers attend over the same tokens."""
    implementation: Any = network.config._attn_implementation
    network.set_attn_implementation("eager")  # the other implementations do not return attention weights
    try:
        with torch.enable_grad():
            outputs = network(pixel_values=pixels.requires_grad_(), output_attentions=True)
            attentions = getattr(outputs, "attentions", None) or ()
            layers = [a for a in attentions if torch.is_tensor(a) and a.ndim == 4 and len(a) == len(pixels)]
            score = _target_scores(outputs.logits, classes).sum()
            gradients = torch.autograd.grad(score, layers) if layers else ()
    finally:
        network.set_attn_implementation(implementation)
        pixels.requires_grad_(False)
    is_global = len(layers) == len(attentions) and len({a.shape[-2:] for a in layers}) == 1  # else windowed attention
    if not is_global or layers[0].shape[-1] != layers[0].shape[-2]:
        return None
    tokens = layers[0].shape[-1]
    relevance = torch.eye(tokens, device=pixels.device).expand(len(pixels), tokens, tokens)
    for attention, gradient in zip(layers, gradients, strict=True):
        relevance = relevance + (attention * gradient).clamp(min=0).mean(1).detach() @ relevance
    side = int((tokens - 1) ** 0.5)
    return relevance[:, 0, tokens - side**2 :].reshape(-1, side, side)


def _grad_cam(network: PreTrainedModel, layer: nn.Module, pixels: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Feature maps of `layer`, float (N, h, w), weighted by the mean gradient of the target score and summed."""
    outputs = []

    def record(_module: nn.Module, _inputs: tuple, output: torch.Tensor) -> torch.Tensor:
        outputs.append(output if output.requires_grad else output.requires_grad_())
        return output.clone()  # an in-place activation that follows would overwrite the recorded maps

    hook = layer.register_forward_hook(record)
    try:
        with torch.enable_grad():
            score = _target_scores(network(pixel_values=pixels).logits, classes).sum()
    finally:
        hook.remove()
    maps = outputs[-1]
    (gradient,) = torch.autograd.grad(score, maps)
    return (gradient.mean(dim=(2, 3), keepdim=True) * maps).sum(dim=1).detach()


def _target_scores(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    return logits[torch.arange(len(classes)), classes]


def _last_feature_map(network: PreTrainedModel, pixels: torch.Tensor) -> nn.Module | None:
    """The module that is the last to return feature maps (1, C, h, h), h > 1; the outermost if several end there."""
    layers = []

    def record(module: nn.Module, _inputs: tuple, output: object) -> None:
        # only square maps, as the input is square: (1, heads, tokens, channels) of a transformer are not feature maps
        if torch.is_tensor(output) and output.ndim == 4 and output.shape[-2] == output.shape[-1] > 1:
            layers.append(module)

    hooks = [module.register_forward_hook(record) for module in network.modules()]
    try:
        with torch.no_grad():
            network(pixel_values=pixels)
    finally:
        for hook in hooks:
            hook.remove()
    return layers[-1] if layers else None
