"""Copy pretrained weights into a network with other classes or another input size."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel

from imgcls.errors import ModelError
from imgcls.models.classifier_head import head_names


def transfer_weights(source: PreTrainedModel, target: PreTrainedModel, name: str) -> list[str]:
    """Copy all weights of `source` to `target`: head rows by class name, position embeddings interpolated.

    Head rows of classes that `source` does not know stay as they are. Returns notes in words. Raises ModelError for
    any other difference in shape; `name` is the model's name in that message.
    """
    head = head_names(target.config)
    source_weights, target_weights = source.state_dict(), target.state_dict()
    rows = _shared_class_rows(source, target)
    for key, tensor in target_weights.items():
        value = source_weights[key]
        if key in head:
            for row, source_row in rows:
                tensor[row] = value[source_row]
        elif value.shape == tensor.shape:
            tensor.copy_(value)
        elif key.endswith("position_embeddings"):
            tensor.copy_(interpolate_position_embeddings(value, tensor.shape[1]))
        else:
            raise ModelError(
                f"Expected {key} of {name} with shape {tuple(tensor.shape)}, got {tuple(value.shape)}. "
                "Keep the checkpoint's own --image_px."
            )
    target.load_state_dict(target_weights)
    classes, source_classes = target.config.num_labels, source.config.num_labels
    if len(rows) == len(set(_class_names(source).values())) == classes:
        return ["head kept: the same classes"]
    known = f", {len(rows)} known classes kept" if rows else ""
    return [f"new head for {classes} classes{known} (the checkpoint had {source_classes})"]


def interpolate_position_embeddings(embeddings: torch.Tensor, tokens: int) -> torch.Tensor:
    """Resize position embeddings, (1, extra + n*n, D) -> (1, tokens, D), to another square grid of patches.

    Bicubic; the `extra` embeddings of class and distillation tokens stay as they are (Dosovitskiy et al. 2021, 3.2).
    """
    source_side = int((embeddings.shape[1] - 1) ** 0.5)
    extra = embeddings.shape[1] - source_side**2
    side = int((tokens - extra) ** 0.5)
    grid = embeddings[:, extra:].reshape(1, source_side, source_side, -1).permute(0, 3, 1, 2)
    grid = nn.functional.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    return torch.cat([embeddings[:, :extra], grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def _shared_class_rows(source: PreTrainedModel, target: PreTrainedModel) -> list[tuple[int, int]]:
    """(row in the target's head, row in the source's head) of each class that both networks know."""
    source_rows = {name: row for row, name in _class_names(source).items()}
    return [(row, source_rows[name]) for row, name in _class_names(target).items() if name in source_rows]


def _class_names(network: PreTrainedModel) -> dict[int, str]:
    return cast("dict[int, str]", network.config.id2label)
