"""Stand-ins for the eight Hub checkpoints: the files and layouts of their repositories, with random weights.

`write(name, folder)` makes a model of a few thousand weights, `write(name, folder, tiny=False)` one of the real
size. Weights are scaled, and batch-norm statistics measured, so that different pictures give different outputs.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import timm
import torch
import transformers
from drawings import photo
from safetensors.torch import save_file
from torch import nn

HUB_IDS = {
    "vit-base": "google/vit-base-patch16-224-in21k",
    "vit-large": "google/vit-large-patch16-224-in21k",
    "vit-small-msn": "facebook/vit-msn-small",
    "resnet-18": "microsoft/resnet-18",
    "resnet-50": "microsoft/resnet-50",
    "resnet-101": "microsoft/resnet-101",
    "efficientnet-b0": "google/efficientnet-b0",
    "mobilenetv3-small": "timm/mobilenetv3_small_100.lamb_in1k",
}
# Parameters of the file on the Hub, which tiny=False reproduces.
PARAMETERS = {
    "vit-base": 86_389_248,
    "vit-large": 304_351_232,
    "vit-small-msn": 21_665_664,
    "resnet-18": 11_689_512,
    "resnet-50": 25_557_032,
    "resnet-101": 44_549_160,
    "efficientnet-b0": 5_288_548,
    "mobilenetv3-small": 2_542_856,
}
MEAN = [0.485, 0.456, 0.406]
STD = [0.229, 0.224, 0.225]


def _vit(hidden: int, layers: int, heads: int, mlp: int) -> dict:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": mlp,
    }


def _resnet(layer_type: str, embedding: int, sizes: list[int], depths: list[int]) -> dict:
    return {"layer_type": layer_type, "embedding_size": embedding, "hidden_sizes": sizes, "depths": depths}


_REAL_BOTTLENECK = [256, 512, 1024, 2048]
_TINY_BOTTLENECK = [16, 32, 32, 64]
# name -> (arguments of the tiny configuration, arguments of the real one)
_SIZES = {
    "vit-base": (_vit(32, 2, 2, 64), _vit(768, 12, 12, 3072)),
    "vit-large": (_vit(48, 3, 4, 96), _vit(1024, 24, 16, 4096)),
    "vit-small-msn": (_vit(24, 2, 2, 48), _vit(384, 12, 6, 1536)),
    "resnet-18": (_resnet("basic", 8, [8, 16, 24, 32], [1] * 4), _resnet("basic", 64, [64, 128, 256, 512], [2] * 4)),
    "resnet-50": (
        _resnet("bottleneck", 8, _TINY_BOTTLENECK, [1, 1, 1, 1]),
        _resnet("bottleneck", 64, _REAL_BOTTLENECK, [3, 4, 6, 3]),
    ),
    "resnet-101": (
        _resnet("bottleneck", 8, _TINY_BOTTLENECK, [1, 1, 2, 1]),
        _resnet("bottleneck", 64, _REAL_BOTTLENECK, [3, 4, 23, 3]),
    ),
    "efficientnet-b0": (
        {
            "width_coefficient": 0.25,
            "hidden_dim": 320,
            "kernel_sizes": [3, 3, 5],
            "in_channels": [32, 16, 32],
            "out_channels": [16, 32, 64],
            "strides": [1, 2, 2],
            "num_block_repeats": [1, 1, 2],
            "expand_ratios": [1, 4, 4],
        },
        {"width_coefficient": 1.0, "hidden_dim": 1280},
    ),
}


def _hub_processor(kind: str, size: dict, resample: int, mean: list[float], std: list[float], **more) -> dict:
    return {
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        kind: more.pop("name"),
        "image_mean": mean,
        "image_std": std,
        "resample": resample,
        "rescale_factor": 1 / 255,
        "size": size,
        **more,
    }


def processor(name: str) -> dict | None:
    """What the repository's preprocessor_config.json says; None for timm, which has no such file."""
    square = {"height": 224, "width": 224}
    half = [0.5, 0.5, 0.5]
    if name in ("vit-base", "vit-large"):
        return _hub_processor("image_processor_type", square, 2, half, half, name="ViTImageProcessor")
    if name == "vit-small-msn":
        # One of the old files: a feature extractor.
        return _hub_processor("feature_extractor_type", square, 2, MEAN, STD, name="ViTFeatureExtractor")
    if name.startswith("resnet"):
        # Older still, from before do_rescale: ConvNeXt's, its size a bare number.
        return {
            "crop_pct": 0.875,
            "do_normalize": True,
            "do_resize": True,
            "feature_extractor_type": "ConvNextFeatureExtractor",
            "image_mean": MEAN,
            "image_std": STD,
            "resample": 3,
            "size": 224,
        }
    if name == "efficientnet-b0":
        return _hub_processor(
            "image_processor_type",
            square,
            0,
            MEAN,
            [0.47853944, 0.4732864, 0.47434163],
            name="EfficientNetImageProcessor",
            crop_size={"height": 289, "width": 289},
            do_center_crop=False,
            include_top=True,
            rescale_offset=False,
        )
    return None


def _build(name: str, tiny: bool) -> nn.Module:
    """The model in the class its repository was saved from, weights not yet set."""
    if name == "mobilenetv3-small":
        return timm.create_model("mobilenetv3_small_050" if tiny else "mobilenetv3_small_100", pretrained=False)
    arguments = dict(_SIZES[name][0 if tiny else 1])
    if name in ("vit-base", "vit-large"):
        return transformers.ViTModel(transformers.ViTConfig(**arguments), add_pooling_layer=True)
    if name == "vit-small-msn":
        return transformers.ViTMSNModel(transformers.ViTMSNConfig(**arguments))
    labels = {i: f"imagenet class {i}" for i in range(1000)}
    arguments |= {"id2label": labels, "label2id": {label: i for i, label in labels.items()}}
    if name.startswith("resnet"):
        return transformers.ResNetForImageClassification(transformers.ResNetConfig(**arguments))
    arguments |= {"depth_coefficient": 1.0, "image_size": 224, "dropout_rate": 0.2}
    return transformers.EfficientNetForImageClassification(transformers.EfficientNetConfig(**arguments))


@torch.no_grad()
def _fill(model: nn.Module, seed: int, pictures: int) -> None:
    """Random weights at which signals keep their size; batch-norm statistics from a pass over `pictures` pictures."""
    random = torch.Generator().manual_seed(seed)
    for key, value in model.named_parameters():
        if value.ndim >= 2 and "token" not in key and "position" not in key:
            # The ReLU-like networks are the convolutional ones; attention and its neighbours need no gain.
            gain = 2.0 if value.ndim == 4 and "patch_embeddings" not in key else 1.0
            value.normal_(0, math.sqrt(gain / value[0].numel()), generator=random)
        elif key.endswith("bias"):
            value.normal_(0, 0.02, generator=random)
        elif value.ndim == 1:
            value.normal_(1, 0.1, generator=random)
        else:
            value.normal_(0, 0.1, generator=random)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    if norms:
        # Measured on different pictures, then nudged: evaluation is neither degenerate nor equal to a batch's own.
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 1.0
        batch = np.stack([np.asarray(photo(224, 224, seed * 1000 + i), dtype=np.float32) for i in range(pictures)])
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
        model.train()
        pixels = (torch.from_numpy(batch).permute(0, 3, 1, 2) / 255 - mean) / std
        model(pixels)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.running_var.mul_(1 + 0.2 * torch.rand(norm.running_var.shape, generator=random))
            norm.running_mean.add_(
                0.05 * norm.running_var.sqrt() * torch.randn(norm.running_mean.shape, generator=random)
            )
        # Logits around zero, so that the old head too answers differently from picture to picture.
        model.eval()
        logits = model(pixels)
        head = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
        head.bias.sub_((logits if torch.is_tensor(logits) else logits.logits).mean(dim=0))
    model.eval()


def _write_timm(model: nn.Module, folder: Path) -> None:
    """What timm's Hub repositories hold: bare keys, a config.json of timm's own without model_args."""
    cfg = model.pretrained_cfg
    keep = ("input_size", "fixed_input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")
    config = {
        "architecture": cfg["architecture"],
        "num_classes": 1000,
        "num_features": model.head_hidden_size,
        "pretrained_cfg": {
            "tag": "lamb_in1k",
            "custom_load": False,
            **{k: cfg[k] for k in keep},
            "num_classes": 1000,
            "pool_size": cfg["pool_size"],
            "first_conv": cfg["first_conv"],
            "classifier": cfg["classifier"],
            "license": "apache-2.0",
        },
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    weights = {key: value.detach().contiguous() for key, value in model.state_dict().items()}
    # As timm does: no metadata, unlike transformers' files.
    save_file(weights, folder / "model.safetensors")


def write(name: str, folder: str | Path, tiny: bool = True, seed: int = 0) -> Path:
    """Write the repository of the short name `name` into `folder` and return it.

    Torch's global random state is as before afterwards.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _build(name, tiny)
        _fill(model, seed, pictures=8 if tiny else 4)
    if name == "mobilenetv3-small":
        _write_timm(model, folder)
    else:
        model.save_pretrained(folder)
        settings = processor(name)
        (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return folder
