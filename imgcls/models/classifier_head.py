"""The head of a classifier: the layer whose size depends on the number of classes."""

from __future__ import annotations

import functools
import json
from typing import cast

import torch
from torch import nn
from transformers import AutoModelForImageClassification, PreTrainedConfig

from imgcls.errors import ModelError, shorten
from imgcls.models import model_config
from imgcls.models.source import ModelSource


def head_of(network: nn.Module) -> nn.Linear:
    """The network's last layer, a linear map from features to logits. Raises ModelError for any other kind of head."""
    names = head_names(cast("PreTrainedConfig", network.config))
    layers = [m for name, m in network.named_modules() if isinstance(m, nn.Linear) and f"{name}.weight" in names]
    if len(layers) != 1 or len(names) != 2:
        raise ModelError(
            f"Expected a network whose head is one linear layer, got {shorten(names)}. Give --tune full for this model."
        )
    return layers[0]


def has_linear_head(source: ModelSource) -> bool:
    """Whether `head_of` accepts this model; reads no weights."""
    with torch.device("meta"):
        network = AutoModelForImageClassification.from_config(model_config.load_config(source)[0])
    try:
        head_of(network)
    except ModelError:
        return False
    return True


def head_names(config: PreTrainedConfig) -> frozenset[str]:
    """Names of the head's parameters: those whose shape depends on the number of classes."""
    return _head_names(type(config), config.to_json_string())


@functools.lru_cache(maxsize=32)  # 0.25 s each, and called several times a run
def _head_names(config_class: type[PreTrainedConfig], settings: str) -> frozenset[str]:
    shapes = []
    for num_labels in (3, 4):
        config = config_class.from_dict(json.loads(settings))
        config.num_labels = num_labels
        with torch.device("meta"):
            network = AutoModelForImageClassification.from_config(config)
        shapes.append({name: tensor.shape for name, tensor in network.state_dict().items()})
    return frozenset(name for name, shape in shapes[0].items() if shapes[1][name] != shape)
