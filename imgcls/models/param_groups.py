"""A network's layers in order of depth: which of them train, and at which learning rate."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def layer_depths(network: nn.Module, head: Iterable[str]) -> dict[str, int]:
    """Depth of each parameter by name: 0 for the first layers, one more for each block, the highest for the head.

    A block is what is numbered first in a parameter's name (`encoder.layer.7.…`, `stages.2.…`, `blocks.4.…`);
    what is registered before the blocks counts as the first, what comes after them as a block of its own. head:
    names of the head's parameters.
    """
    head, order, found = set(head), {}, {}
    seen_blocks = False
    for name, _ in network.named_parameters():
        if name in head:
            continue
        parts = name.split(".")
        number = next((i for i, part in enumerate(parts) if part.isdigit()), None)
        if number is not None:
            seen_blocks = True
            block = ".".join(parts[: number + 1])
        else:
            block = "after" if seen_blocks else "before"
        found[name] = order.setdefault(block, len(order))
    return {name: found.get(name, len(order)) for name, _ in network.named_parameters()}


@dataclass(frozen=True)
class LearningRates:
    """How learning rates differ between layers. head: names of the head's parameters."""

    head: Iterable[str]
    layer_decay: float = 1.0
    head_lr_multiplier: float = 1.0


def parameter_groups(network: nn.Module, rates: LearningRates, learning_rate: float, weight_decay: float) -> list[dict]:
    """Groups for an optimizer: `params`, `lr` and `weight_decay`, one for each rate and decay, highest rate first.

    A layer's rate is that of the next deeper one times `layer_decay` (Clark et al. 2020, 3.2; Bao et al. 2022,
    A.2), the head's is `learning_rate * head_lr_multiplier`. Vectors (biases, norms) and embeddings of positions and
    classes are not decayed. Frozen parameters are left out.
    """
    head = set(rates.head)
    depth = layer_depths(network, head)
    deepest = max(depth.values())
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = learning_rate * (
            rates.head_lr_multiplier if name in head else rates.layer_decay ** (deepest - 1 - depth[name])
        )
        decays = parameter.ndim > 1 and not name.endswith(("_embeddings", "_token"))
        groups.setdefault((rate, weight_decay if decays else 0.0), []).append(parameter)
    ordered = sorted(groups.items(), key=lambda item: item[0], reverse=True)
    return [{"params": group, "lr": rate, "weight_decay": decay} for (rate, decay), group in ordered]


def freeze_batch_norm(network: nn.Module) -> None:
    """Keep batch norm on its pretrained statistics for good; its scale and shift still train.

    Trainer calls `model.train()` before every step, so the hold is renewed before each forward pass.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]

    def hold(*_) -> None:
        for norm in norms:
            norm.eval()

    network.register_forward_pre_hook(hold)
