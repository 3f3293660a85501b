"""Low-rank adapters (Hu et al. 2022) through `peft`: which layers get one, saving them and merging them."""

from __future__ import annotations

import warnings
from typing import cast

import peft
from torch import nn
from transformers import PreTrainedModel

from imgcls.models.classifier import Classifier
from imgcls.models.classifier_head import head_of


def lora_targets(classifier: Classifier) -> list[str]:
    """Names of the layers that get an adapter: all linear layers but the head, and all ungrouped convolutions of a CNN.

    The head is trained as a whole. Depthwise convolutions have fewer inputs than any useful rank, and peft cannot merge
    adapters of grouped ones.
    """
    head = head_of(classifier.network)
    names = []
    for name, module in classifier.network.named_modules():
        is_linear = isinstance(module, nn.Linear) and module is not head
        is_convolution = classifier.family == "cnn" and isinstance(module, nn.Conv2d) and module.groups == 1
        if is_linear or is_convolution:
            names.append(name)
    return names


def add_lora(classifier: Classifier, rank: int) -> peft.PeftModel:
    """Wrap the network with adapters; only these and the head are trainable.

    The classifier's own network is changed in place until `merge_adapter`.
    """
    head = head_of(classifier.network)
    name = next(name for name, module in classifier.network.named_modules() if module is head)
    config = peft.LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules=lora_targets(classifier), modules_to_save=[name], bias="none"
    )
    with warnings.catch_warnings():  # peft 0.21 uses an attribute that transformers 5.23 renamed
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        return peft.get_peft_model(classifier.network, config)


def head_names(wrapped: peft.PeftModel) -> set[str]:
    """Names of the head's parameters in the wrapped network."""
    return {name for name, _ in wrapped.named_parameters() if ".modules_to_save." in name}


def save_adapter(wrapped: peft.PeftModel, folder: str) -> None:
    """Save adapters and head alone, in the format that `peft` loads."""
    wrapped.save_pretrained(folder, save_embedding_layers=False)


def merge_adapter(wrapped: peft.PeftModel) -> PreTrainedModel:
    """The classifier's network with the adapters added to its weights."""
    return cast(PreTrainedModel, wrapped.merge_and_unload())
