"""From a model's files to a network that fits the task: its head, its input size, its processor."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForImageClassification

from imgcls.errors import ModelError, one_line, shorten
from imgcls.models import input_size, model_config
from imgcls.models.source import ModelSource


@dataclass
class Classifier:
    """A network with its image processor, ready to train. `notes` say in words what was changed to fit."""

    name: str
    network: nn.Module
    processor: object
    family: str  # "vit" or "cnn"
    initialised: str  # "pretrained" or "random"
    image_px: int
    notes: list[str]


def build_classifier(
    source: ModelSource,
    classes: list[str],
    *,
    from_scratch: bool = False,
    image_px: int | None = None,
    aspect: str | None = None,
    drop_path: float | None = None,
) -> Classifier:
    """A network for `classes`, from `source`'s weights or from random ones.

    classes: names in label order. image_px: side of the input; None keeps the checkpoint's own. aspect: how a
    photo becomes a square, "crop", "pad" or "squash"; None keeps the checkpoint's own way. drop_path:
    share of residual branches dropped in training. Rows of the old head whose class names return are kept, all
    others are fresh; ViT position embeddings are interpolated. The torch seed decides fresh weights. Raises
    ModelError when anything but the head does not fit.
    """
    config, processor = model_config.load_config(source)
    old = None if from_scratch else _load(source.folder, config)
    old_px = input_size.input_side(config, processor)
    processor = model_config.fit_config(config, processor, classes, image_px, aspect)
    if drop_path is not None:
        _set_drop_path(config, drop_path, source.name)
    try:
        network = AutoModelForImageClassification.from_config(config, dtype=torch.float32)
    except (ValueError, ImportError) as error:
        raise ModelError(f"{source.name} cannot classify images: {one_line(error, limit=300)}") from error
    _slow_batch_norm(network)
    if from_scratch and config.model_type == "efficientnet":  # the others' own initial weights are sound
        _draw_weights(network)
    notes = [] if old is None else _transfer(old, network, source.name)
    if image_px not in (None, old_px):
        notes.append(f"input {image_px} px instead of {old_px}")
    _check_forward(network, input_size.input_side(config, processor), source.name)
    return Classifier(
        source.name,
        network,
        processor,
        model_config.model_family(config),
        "random" if from_scratch else "pretrained",
        input_size.input_side(config, processor),
        notes,
    )


def head_of(network: nn.Module) -> nn.Linear:
    """The network's last layer, one linear map from features to logits. Raises ModelError when it has another form."""
    keys = _head_keys(network.config)
    layers = [m for name, m in network.named_modules() if isinstance(m, nn.Linear) and f"{name}.weight" in keys]
    if len(layers) != 1 or len(keys) != 2:
        raise ModelError(
            f"Expected a network whose head is one linear layer, got {shorten(keys)}. Give --tune full for this model."
        )
    return layers[0]


def head_names(network: nn.Module) -> frozenset[str]:
    """Names of the head's parameters."""
    return _head_keys(network.config)


def has_linear_head(source: ModelSource) -> bool:
    """Whether `head_of` will find the head of this model."""
    with torch.device("meta"):
        network = AutoModelForImageClassification.from_config(model_config.load_config(source)[0])
    try:
        head_of(network)
    except ModelError:
        return False
    return True


def memory_layout(network: nn.Module) -> torch.memory_format:
    """channels_last for CNNs, the ordinary one for transformers.

    On a CPU 1.04 to 1.3 times faster in training, and 1.8 times in a MobileNetV3's forward pass.

    Also the ordinary one for networks with a spatial convolution of fewer than 16 channels: torch 2.15's backward
    pass corrupts memory there (8 channels: "free(): invalid next size").
    """
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    narrow = any(m.out_channels < 16 and m.kernel_size[0] > 1 for m in convolutions)
    is_cnn = model_config.model_family(network.config) == "cnn"
    return torch.channels_last if is_cnn and not narrow else torch.contiguous_format


def _load(folder: Path, config) -> nn.Module:
    """The source's own network. Raises ModelError when weights other than the head's are missing or misshapen."""
    if not list(folder.glob("*.safetensors")):
        raise ModelError(f"Expected weights as safetensors in {folder}, got none. Other formats can run code.")
    try:
        network, info = AutoModelForImageClassification.from_pretrained(
            folder, config=config, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise ModelError(f"{folder} cannot be loaded: {one_line(error, limit=300)}") from error
    missing = set(info["missing_keys"]) - _head_keys(config)
    if missing:
        raise ModelError(
            f"Expected all weights but the head's in {folder}, got none for {shorten(missing)}. "
            "The file does not belong to this config.json."
        )
    return network


def _head_keys(config) -> frozenset[str]:
    """Names of the weights whose shape depends on the number of classes."""
    return _head_keys_of(type(config), config.to_json_string())


@functools.lru_cache(maxsize=32)  # a quarter of a second each, and asked several times a run
def _head_keys_of(kind: type, settings: str) -> frozenset[str]:
    shapes = []
    for count in (3, 4):
        config = kind.from_dict(json.loads(settings))
        config.num_labels = count
        with torch.device("meta"):
            network = AutoModelForImageClassification.from_config(config)
        shapes.append({name: tensor.shape for name, tensor in network.state_dict().items()})
    return frozenset(name for name, shape in shapes[0].items() if shapes[1][name] != shape)


def _set_drop_path(config, share: float, name: str) -> None:
    for field in ("drop_path_rate", "drop_connect_rate"):
        if hasattr(config, field):
            setattr(config, field, share)
            return
    if not hasattr(config, "pretrained_cfg"):
        raise ModelError(f"Expected a network that can drop residual branches, got {name}. Leave --drop_path out.")
    config.model_args = {**(config.model_args or {}), "drop_path_rate": share}


def _slow_batch_norm(network: nn.Module) -> None:
    """Let batch norm's statistics follow slowly where a configuration gives TensorFlow's share to keep for torch's own.

    transformers' EfficientNet has momentum 0.99: evaluation then sees the statistics of the last batch alone.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.momentum is not None and module.momentum > 0.5:
            module.momentum = 0.1  # torch's default; 0.01, what 0.99 means, would need some hundred steps


def _draw_weights(network: nn.Module) -> None:
    """Random convolutions that keep the size of a signal (He et al. 2015, fan-out; depthwise ones by group).

    transformers draws all of EfficientNet's weights from a normal of 0.02, batch norm's scales (which start at 1) among
    them: signals die out layer by layer, to 1e-11 in the last, and the demo's loss did not leave ln 10.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, nn.Conv2d):
            fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
            nn.init.normal_(module.weight, 0.0, (2 / fan_out) ** 0.5)


def _transfer(old: nn.Module, new: nn.Module, name: str) -> list[str]:
    """Copy weights from `old` to `new`: head rows by class name, position embeddings interpolated.

    Returns notes in words. Raises ModelError for any other difference in shape.
    """
    head = _head_keys(new.config)
    old_weights, new_weights = old.state_dict(), new.state_dict()
    known = {c: i for i, c in old.config.id2label.items()}
    rows = [(i, known[c]) for i, c in new.config.id2label.items() if c in known]
    for key, target in new_weights.items():
        value = old_weights[key]
        if key in head:
            for i, j in rows:
                target[i] = value[j]
        elif value.shape == target.shape:
            target.copy_(value)
        elif key.endswith("position_embeddings"):
            target.copy_(_interpolate(value, target.shape[1]))
        else:
            raise ModelError(
                f"Expected weights of {name} to fit, got {tuple(value.shape)} instead of {tuple(target.shape)} "
                f"for {key}. Keep the checkpoint's own --image_px."
            )
    new.load_state_dict(new_weights)
    if len(rows) == len(known) == new.config.num_labels:
        return ["head kept: the same classes"]
    kept = f", {len(rows)} known classes kept" if rows else ""
    return [f"new head for {new.config.num_labels} classes{kept} (the checkpoint's had {old.config.num_labels})"]


def _interpolate(embeddings: torch.Tensor, tokens: int) -> torch.Tensor:
    """Position embeddings (1, extra + n*n, D) for another grid: bicubic, class token kept (Dosovitskiy 2021, 3.2)."""
    old_side = int((embeddings.shape[1] - 1) ** 0.5)
    extra = embeddings.shape[1] - old_side**2
    side = int((tokens - extra) ** 0.5)
    grid = embeddings[:, extra:].reshape(1, old_side, old_side, -1).permute(0, 3, 1, 2)
    grid = nn.functional.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    return torch.cat([embeddings[:, :extra], grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def _check_forward(network: nn.Module, image_px: int, name: str) -> None:
    """Try one image, so that a size the network cannot take is found before any data is read."""
    network.eval()
    try:
        with torch.no_grad():
            network(pixel_values=torch.zeros(1, 3, image_px, image_px))
    except (ValueError, RuntimeError) as error:
        raise ModelError(
            f"Expected {name} to take {image_px} px, got: {one_line(error)}. Choose another --image_px."
        ) from error
