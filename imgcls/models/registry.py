"""The known models: short name -> Hub id, architecture, image processor, size, license, and what to choose it for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from imgcls.errors import ModelError, nearest, shorten

IMAGENET_MEAN = [0.485, 0.456, 0.406]
IMAGENET_STD = [0.229, 0.224, 0.225]


@dataclass(frozen=True)
class Checkpoint:
    """A pretrained model that imgcls knows by a short name.

    config and processor hold the values of the checkpoint's config.json and preprocessor_config.json that differ from
    the defaults of their classes, so that --from_scratch needs no network.
    """

    name: str
    hub_id: str
    family: str  # "vit" or "cnn": learning rates and memory layout differ
    config: dict[str, Any] = field(repr=False)
    processor: dict[str, Any] = field(repr=False)
    parameters: int  # as saved on the Hub, including the head
    megabytes: float  # safetensors file, 10^6 bytes
    recommended_for: str
    image_px: int = 224
    license: str = "apache-2.0"
    revision: str = "main"


def _vit_processor(mean: list[float], std: list[float]) -> dict[str, Any]:
    return {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": 224, "width": 224},
        "resample": 2,
        "image_mean": mean,
        "image_std": std,
    }


# ResNet checkpoints use ConvNeXt's processor: shorter side to 224 / 0.875 = 256 px, then a 224 px center crop.
_RESNET_PROCESSOR = {
    "image_processor_type": "ConvNextImageProcessor",
    "size": {"shortest_edge": 224},
    "crop_pct": 0.875,
    "resample": 3,
    "image_mean": IMAGENET_MEAN,
    "image_std": IMAGENET_STD,
}
# include_top makes this processor divide by std twice, so its std is the square root of ImageNet's.
_EFFICIENTNET_PROCESSOR = {
    "image_processor_type": "EfficientNetImageProcessor",
    "size": {"height": 224, "width": 224},
    "resample": 0,
    "do_center_crop": False,
    "crop_size": {"height": 289, "width": 289},
    "rescale_factor": 1 / 255,
    "rescale_offset": False,
    "include_top": True,
    "image_mean": IMAGENET_MEAN,
    "image_std": [0.47853944, 0.4732864, 0.47434163],
}
_MOBILENET_CONFIG = {
    "model_type": "timm_wrapper",
    "architecture": "mobilenetv3_small_100",
    "pretrained_cfg": {
        "input_size": [3, 224, 224],
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "crop_mode": "center",
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "first_conv": "conv_stem",
        "classifier": "classifier",
        "license": "apache-2.0",
    },
}


def _resnet_config(layer_type: str, hidden_sizes: list[int], depths: list[int]) -> dict[str, Any]:
    return {"model_type": "resnet", "layer_type": layer_type, "hidden_sizes": hidden_sizes, "depths": depths}


_HALF = [0.5, 0.5, 0.5]
_BOTTLENECK_SIZES = [256, 512, 1024, 2048]

CHECKPOINTS = {
    checkpoint.name: checkpoint
    for checkpoint in (
        Checkpoint(
            "vit-base",
            "google/vit-base-patch16-224-in21k",
            "vit",
            {"model_type": "vit"},
            _vit_processor(_HALF, _HALF),
            parameters=86_389_248,
            megabytes=345.6,
            recommended_for="best accuracy for its cost on a GPU, from about 1,000 images",
        ),
        Checkpoint(
            "vit-large",
            "google/vit-large-patch16-224-in21k",
            "vit",
            {
                "model_type": "vit",
                "hidden_size": 1024,
                "num_hidden_layers": 24,
                "num_attention_heads": 16,
                "intermediate_size": 4096,
            },
            _vit_processor(_HALF, _HALF),
            parameters=304_351_232,
            megabytes=1217.4,
            recommended_for="highest accuracy, large sets, a GPU with 16 GB or more",
        ),
        Checkpoint(
            "vit-small-msn",
            "facebook/vit-msn-small",
            "vit",
            {
                "model_type": "vit_msn",
                "hidden_size": 384,
                "num_hidden_layers": 12,
                "num_attention_heads": 6,
                "intermediate_size": 1536,
            },
            _vit_processor(IMAGENET_MEAN, IMAGENET_STD),
            parameters=21_665_664,
            megabytes=86.7,
            recommended_for="few labelled images: pretrained without labels for low-shot learning",
        ),
        Checkpoint(
            "resnet-18",
            "microsoft/resnet-18",
            "cnn",
            _resnet_config("basic", [64, 128, 256, 512], [2, 2, 2, 2]),
            _RESNET_PROCESSOR,
            parameters=11_689_512,
            megabytes=46.8,
            recommended_for="small sets and laptops: fast and reliable",
        ),
        Checkpoint(
            "resnet-50",
            "microsoft/resnet-50",
            "cnn",
            _resnet_config("bottleneck", _BOTTLENECK_SIZES, [3, 4, 6, 3]),
            _RESNET_PROCESSOR,
            parameters=25_557_032,
            megabytes=102.5,
            recommended_for="the all-round choice for 1,000 to 10,000 images",
        ),
        Checkpoint(
            "resnet-101",
            "microsoft/resnet-101",
            "cnn",
            _resnet_config("bottleneck", _BOTTLENECK_SIZES, [3, 4, 23, 3]),
            _RESNET_PROCESSOR,
            parameters=44_549_160,
            megabytes=178.7,
            recommended_for="more capacity than resnet-50 for large sets without attention",
        ),
        Checkpoint(
            "efficientnet-b0",
            "google/efficientnet-b0",
            "cnn",
            {
                "model_type": "efficientnet",
                "width_coefficient": 1.0,
                "depth_coefficient": 1.0,
                "hidden_dim": 1280,
                "image_size": 224,
                "dropout_rate": 0.2,
            },
            _EFFICIENTNET_PROCESSOR,
            parameters=5_288_548,
            megabytes=21.4,
            recommended_for="accuracy close to resnet-50 in a fifth of its size",
        ),
        Checkpoint(
            "mobilenetv3-small",
            "timm/mobilenetv3_small_100.lamb_in1k",
            "cnn",
            _MOBILENET_CONFIG,
            {"image_processor_type": "TimmWrapperImageProcessor"},
            parameters=2_542_856,
            megabytes=10.2,
            recommended_for="phones, browsers and CPUs: the fastest of the eight",
        ),
    )
}


def find_checkpoint(name: str) -> Checkpoint | None:
    """The known model with this short name or Hub id; None for any other Hub id ("owner/name").

    Raises ModelError for an unknown short name; the message names the three nearest.
    """
    for checkpoint in CHECKPOINTS.values():
        if name in (checkpoint.name, checkpoint.hub_id):
            return checkpoint
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return None
    raise ModelError(
        f"Expected one of {shorten(CHECKPOINTS, limit=8)}, a Hub id (owner/name) or a local model folder, "
        f"got {name!r}. Nearest: {', '.join(nearest(name, CHECKPOINTS))}."
    )
