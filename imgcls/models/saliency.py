"""A network and pixels -> heat maps: which parts of each picture spoke for a class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from captum.attr import LayerGradCam
from torch import nn


def heat_maps(network: nn.Module, pixels: torch.Tensor, targets: Sequence[int]) -> torch.Tensor | None:
    """Float (N, h, w) in 0..1, in the geometry of the input; None for a network that neither way fits.

    pixels: float (N, 3, px, px), as the image processor gives them. targets: class of each. Transformers whose
    attention is global: relevance through attention and its gradients (Chefer et al. 2021, "Generic
    attention-model explainability", equations 5 and 6); networks with maps of features: Grad-CAM on the last of them
    (Selvaraju et al. 2017).
    """
    network.eval()
    targets = torch.as_tensor(targets, device=pixels.device)
    if getattr(network.config, "num_attention_heads", None):
        found = _through_attention(network, pixels, targets)
    else:
        layer = _last_map(network, pixels[:1])
        found = None if layer is None else _grad_cam(network, layer, pixels, targets)
    if found is None:
        return None
    found = found.clamp(min=0)
    return (found / found.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)).cpu()


def _through_attention(network: nn.Module, pixels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor | None:
    before = network.config._attn_implementation
    network.set_attn_implementation("eager")  # the others do not give their attention away
    try:
        with torch.enable_grad():
            outputs = network(pixel_values=pixels.requires_grad_(), output_attentions=True)
            given = getattr(outputs, "attentions", None) or ()
            layers = [a for a in given if torch.is_tensor(a) and a.ndim == 4 and len(a) == len(pixels)]
            own = outputs.logits[torch.arange(len(targets)), targets].sum()
            gradients = torch.autograd.grad(own, layers) if layers else ()
    finally:
        network.set_attn_implementation(before)
        pixels.requires_grad_(False)
    alike = len(layers) == len(given) and len({a.shape[-2:] for a in layers}) == 1  # else it is attention in windows
    if not alike or layers[0].shape[-1] != layers[0].shape[-2]:
        return None
    tokens = layers[0].shape[-1]
    relevance = torch.eye(tokens, device=pixels.device).expand(len(pixels), tokens, tokens)
    for attention, gradient in zip(layers, gradients, strict=True):
        relevance = relevance + (attention * gradient).clamp(min=0).mean(1).detach() @ relevance
    side = int((tokens - 1) ** 0.5)
    return relevance[:, 0, tokens - side**2 :].reshape(-1, side, side)


def _grad_cam(network: nn.Module, layer: nn.Module, pixels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    method = LayerGradCam(lambda given: network(pixel_values=given).logits, layer)
    return method.attribute(pixels, target=targets, relu_attributions=True).detach()[:, 0]


def _last_map(network: nn.Module, pixels: torch.Tensor) -> nn.Module | None:
    """The module that is the last to end with maps of features (1, C, h, w), h * w > 1: the outermost of those."""
    found = []

    def note(module: nn.Module, _, output) -> None:
        # squares, as the input is: of a transformer that keeps its attention to itself, tokens times size are none
        if torch.is_tensor(output) and output.ndim == 4 and output.shape[-2] == output.shape[-1] > 1:
            found.append(module)

    hooks = [module.register_forward_hook(note) for module in network.modules()]
    try:
        with torch.no_grad():
            network(pixel_values=pixels)
    finally:
        for hook in hooks:
            hook.remove()
    return found[-1] if found else None
