"""Parameter groups by depth: layer-wise learning rates, weight decay, and frozen batch norm statistics."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@dataclass(frozen=True)
class LearningRates:
    """How learning rates differ between layers.

    head: names of the head's parameters. layer_decay: learning rate of a block over that of the next deeper one.
    head_lr_multiplier: learning rate of the head over the base learning rate.
    """

    head: Collection[str]
    layer_decay: float = 1.0
    head_lr_multiplier: float = 1.0


def parameter_groups(
    network: nn.Module, rates: LearningRates, learning_rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Optimizer groups with `params`, `lr` and `weight_decay`, one for each combination, highest rate first.

    The deepest block has `learning_rate`, each block before it `layer_decay` times the next one's (Clark et al. 2020,
    3.2; Bao et al. 2022, A.2), the head `learning_rate * head_lr_multiplier`. Vectors (biases, norms) and embeddings
    of positions and classes have no weight decay. Frozen parameters are in no group.
    """
    depths = layer_depths(network, rates.head)
    deepest = max(depths.values())
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        is_head = name in rates.head
        multiplier = rates.head_lr_multiplier if is_head else rates.layer_decay ** (deepest - 1 - depths[name])
        decays = parameter.ndim > 1 and not name.endswith(("_embeddings", "_token"))
        groups.setdefault((learning_rate * multiplier, weight_decay if decays else 0.0), []).append(parameter)
    ordered = sorted(groups.items(), key=lambda item: item[0], reverse=True)
    return [{"params": parameters, "lr": rate, "weight_decay": decay} for (rate, decay), parameters in ordered]


def layer_depths(network: nn.Module, head: Collection[str]) -> dict[str, int]:
    """Depth of each parameter by name: 0 for the stem, one more for each block, the highest for the head.

    A block is identified by the first number in a parameter's name (`encoder.layer.7.…`, `stages.2.…`, `blocks.4.…`).
    Parameters registered before the blocks are the stem, those after them a block of their own. head: names of the
    head's parameters.
    """
    blocks: dict[str, int] = {}
    depths: dict[str, int] = {}
    has_numbered_block = False
    for name, _ in network.named_parameters():
        if name in head:
            continue
        parts = name.split(".")
        number = next((i for i, part in enumerate(parts) if part.isdigit()), None)
        if number is not None:
            has_numbered_block = True
            block = ".".join(parts[: number + 1])
        else:
            block = "after" if has_numbered_block else "before"
        depths[name] = blocks.setdefault(block, len(blocks))
    return {name: depths.get(name, len(blocks)) for name, _ in network.named_parameters()}


def freeze_batch_norm(network: nn.Module) -> None:
    """Keep batch norm's pretrained statistics for the rest of the training; its scale and shift still train.

    Trainer calls `model.train()` before every step, so evaluation mode is set again before each forward pass.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]

    def set_evaluation_mode(*_: object) -> None:
        for norm in norms:
            norm.eval()

    network.register_forward_pre_hook(set_evaluation_mode)
