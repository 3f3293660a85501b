"""Build a classifier for given classes from a pretrained model or from random weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoModelForImageClassification, BaseImageProcessor, PreTrainedConfig, PreTrainedModel

from imgcls.errors import ModelError, one_line, shorten
from imgcls.models import input_size, model_config
from imgcls.models.classifier_head import head_names
from imgcls.models.source import ModelSource
from imgcls.models.weight_transfer import transfer_weights


@dataclass
class Classifier:
    """A network with its image processor, ready to train. `notes` say in words what was adapted."""

    name: str
    network: PreTrainedModel
    processor: BaseImageProcessor
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
    """A network for `classes`, in float32, from `source`'s weights or from random ones.

    classes: names in label order. image_px: side of the input; None keeps the checkpoint's. aspect: how non-square
    photos are made square, "crop", "pad" or "squash"; None keeps the checkpoint's way. drop_path: stochastic-depth
    rate. Head rows of classes that the checkpoint knows by name are kept, all other rows are random; position
    embeddings of a ViT are interpolated. Random weights depend on torch's seed. Raises ModelError when weights other
    than the head's do not fit, or the network cannot have this input.
    """
    config, processor = model_config.load_config(source)
    pretrained = None if from_scratch else _load_pretrained(source, config)
    checkpoint_px = input_size.input_side(config, processor)
    processor = model_config.fit_config(config, processor, classes, image_px, aspect)
    fitted_px = input_size.input_side(config, processor)
    if drop_path is not None:
        _set_drop_path(config, drop_path, source.name)
    network = _build_network(config, source.name)
    if from_scratch and config.model_type == "efficientnet":  # the other architectures initialise themselves well
        _initialise_convolutions(network)
    notes = [] if pretrained is None else transfer_weights(pretrained, network, source.name)
    if image_px not in (None, checkpoint_px):
        notes.append(f"input {image_px} px instead of {checkpoint_px}")
    _check_forward(network, fitted_px, source.name)
    return Classifier(
        source.name,
        network,
        processor,
        model_config.model_family(config),
        "random" if from_scratch else "pretrained",
        fitted_px,
        notes,
    )


def memory_layout(network: PreTrainedModel) -> torch.memory_format:
    """channels_last for CNNs, contiguous for transformers.

    On a CPU, channels_last trains CNNs 1.04 to 1.3 times as fast, and a MobileNetV3's forward pass is 1.8 times as
    fast. Networks with a spatial convolution of fewer than 16 channels stay contiguous: torch 2.15's backward pass
    corrupts memory there (8 channels: "free(): invalid next size").
    """
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    is_narrow = any(m.out_channels < 16 and m.kernel_size[0] > 1 for m in convolutions)
    is_cnn = model_config.model_family(network.config) == "cnn"
    return torch.channels_last if is_cnn and not is_narrow else torch.contiguous_format


def _load_pretrained(source: ModelSource, config: PreTrainedConfig) -> PreTrainedModel:
    """The source's network. Raises ModelError when weights other than the head's are missing or misshapen."""
    folder = source.local_folder
    if not list(folder.glob("*.safetensors")):
        raise ModelError(
            f"Expected weights as safetensors in {folder}, got none; other formats can run code. Convert them first."
        )
    try:
        network, info = AutoModelForImageClassification.from_pretrained(
            folder, config=config, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise ModelError(f"{folder} cannot be loaded: {one_line(error, limit=300)}") from error
    missing = set(info["missing_keys"]) - head_names(config)
    if missing:
        raise ModelError(
            f"Expected all weights but the head's in {folder}, got none for {shorten(missing)}. "
            "The file does not belong to this config.json."
        )
    return network


def _build_network(config: PreTrainedConfig, name: str) -> PreTrainedModel:
    """A network with random weights. Raises ModelError when the configuration is not that of an image classifier."""
    try:
        network = AutoModelForImageClassification.from_config(config, dtype=torch.float32)
    except (ValueError, ImportError) as error:
        raise ModelError(f"{name} cannot classify images: {one_line(error, limit=300)}") from error
    _reduce_batch_norm_momentum(network)
    return network


def _set_drop_path(config: PreTrainedConfig, rate: float, name: str) -> None:
    for field in ("drop_path_rate", "drop_connect_rate"):
        if hasattr(config, field):
            setattr(config, field, rate)
            return
    if not hasattr(config, "pretrained_cfg"):
        raise ModelError(f"Expected a network with stochastic depth, got {name}. Leave --drop_path out.")
    config.model_args = {**(config.model_args or {}), "drop_path_rate": rate}


def _reduce_batch_norm_momentum(network: nn.Module) -> None:
    """Set batch norm's momentum to torch's default where a configuration gives TensorFlow's, which is one minus it.

    transformers' EfficientNet has momentum 0.99: evaluation then uses the statistics of the last batch alone.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.momentum is not None and module.momentum > 0.5:
            module.momentum = 0.1  # 0.01, the equivalent of TensorFlow's 0.99, would need several hundred steps


def _initialise_convolutions(network: nn.Module) -> None:
    """Initialise convolutions so that they preserve the signal's variance (He et al. 2015, fan-out).

    The fan-out of a depthwise convolution is that of one group. transformers initialises all of EfficientNet's weights
    from a normal distribution of standard deviation 0.02, including batch norm's scales, which should start at 1: the
    signal decays layer by layer, to 1e-11 in the last, and the demo's loss did not leave ln 10.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, nn.Conv2d):
            fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
            nn.init.normal_(module.weight, 0.0, (2 / fan_out) ** 0.5)


def _check_forward(network: nn.Module, image_px: int, name: str) -> None:
    """Try one image. Raises ModelError for an input size that the network cannot take, before any data is read."""
    network.eval()
    try:
        with torch.no_grad():
            network(pixel_values=torch.zeros(1, 3, image_px, image_px))
    except (ValueError, RuntimeError) as error:
        raise ModelError(
            f"Expected {name} to take {image_px} px, got: {one_line(error)}. Choose another --image_px."
        ) from error
