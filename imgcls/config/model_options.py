"""Options of the network, of fine-tuning and of augmentation; each dataclass checks itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from imgcls.config.fields import check_fraction, option
from imgcls.errors import OptionError


@dataclass
class ModelOptions:
    """Which network, from which weights, at which input size."""

    _argument_group_name = "model"

    model: str = option(
        "resnet-18",
        "vit-base, vit-large, vit-small-msn, resnet-18, resnet-50, resnet-101, efficientnet-b0, "
        "mobilenetv3-small, any Hub id, a local model folder, a run folder to go on from, or auto: whichever of the "
        "eight does best on the images (default: resnet-18)",
    )
    from_scratch: bool = option(False, "start from random weights instead of pretrained ones")
    image_px: int | None = option(
        None,
        "side of the square input in pixels (default: the checkpoint's own; with --tune auto larger for CNNs, smaller "
        "for tiny pictures)",
    )
    aspect: Literal["auto", "crop", "pad", "squash"] = option(
        "auto",
        "how a photo that is no square becomes one: its middle, padded, or squashed; auto: the checkpoint's own way, "
        "unless a probe (with --tune auto) or the shapes of the photos speak for squashing",
    )

    @property
    def fixed_aspect(self) -> str | None:
        """The aspect to set in the image processor; None leaves it its own."""
        return None if self.aspect == "auto" else self.aspect

    def __post_init__(self):
        if self.model == "auto" and self.from_scratch:
            raise OptionError("Expected --model by name with --from_scratch, got auto: it picks a pretrained one.")
        if self.image_px is not None and not 16 <= self.image_px <= 4096:
            raise OptionError(f"Expected --image_px between 16 and 4096, got {self.image_px}. Usual: 160 to 384.")


@dataclass
class TuneOptions:
    """What of a pretrained network is trained, and how fast."""

    _argument_group_name = "fine-tuning"

    tune: Literal["auto", "full", "head", "lora", "probe_then_full"] = option(
        "auto",
        "full: all weights; head: the last layer alone, on features computed once; lora: small adapters and the head, "
        "merged at the end; probe_then_full: a probe on frozen "
        "features is the head to start from, and what is kept is chosen among probe, fine-tuned model and their "
        "average; auto: that, with the input chosen by probe; full from random weights",
    )
    recipe: Literal["measured", "guide"] = option(
        "measured",
        "where options that are not given come from: what measured best on real photos, or the usual guide's values",
    )
    search: int | None = option(
        None,
        "try so many settings of learning rate, weight and layer decay, then train with the best (needs optuna)",
    )
    views: int = option(1, "with --tune head: features of so many crops of each image, that of evaluation among them")
    layer_decay: float | None = option(None, "learning rate of each layer as share of the next deeper one's")
    head_factor: float | None = option(None, "learning rate of the head, in multiples of --lr")
    batch_norm: Literal["train", "hold"] | None = option(
        None, "hold: batch norm keeps its pretrained statistics (default: by recipe)"
    )
    ema: float | None = option(
        None, "keep an exponential moving average of the weights, this share of it a step; usual: 0.99 (default: off)"
    )
    keep: Literal["best", "probe", "average", "fine-tuned"] = option(
        "best",
        "what is kept after a start from a probe; best: the average (with class weights the probe), unless another is "
        "clearly better",
    )
    lora_rank: int = option(8, "rank of the adapters of --tune lora")
    drop_path: float | None = option(
        None, "share of residual branches dropped in training, for networks that have such (default: the network's own)"
    )

    def __post_init__(self):
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise OptionError(
                f"Expected --layer_decay above 0 and at most 1, got {self.layer_decay}. Usual: 0.65 to 1."
            )
        if self.head_factor is not None and self.head_factor <= 0:
            raise OptionError(f"Expected --head_factor above 0, got {self.head_factor}. Usual: 1 to 10.")
        for name, value in (("search", self.search), ("views", self.views)):
            if value is not None and value < 1:
                raise OptionError(f"Expected --{name} of 1 or more, got {value}.")
        if self.lora_rank < 1:
            raise OptionError(f"Expected --lora_rank of 1 or more, got {self.lora_rank}. Usual: 4 to 16.")
        if self.ema is not None:
            check_fraction("ema", self.ema)
        if self.drop_path is not None:
            check_fraction("drop_path", self.drop_path, low_included=True)


@dataclass
class AugmentOptions:
    """How training images are varied."""

    _argument_group_name = "augmentation"

    augment: Literal["none", "light", "standard", "heavy"] | None = option(
        None, "crop, rotation, colour and (heavy) erasing (default: by recipe)"
    )
    flip: Literal["none", "horizontal", "both"] | None = option(
        None, "mirror images; none where a mirror image means something else, as in text (default: by recipe)"
    )
    trivialaugment: bool = option(False, "one random change of shape or colour an image (TrivialAugment)")
    randaugment: bool = option(False, "two random changes of shape or colour an image (RandAugment)")
    erase: float | None = option(None, "share of images of which a rectangle is erased (default: as --augment says)")
    mixup: float = option(
        0.0, "blend pairs of images and their labels by shares drawn from Beta(x, x); usual: 0.2 (default: off)"
    )
    cutmix: float = option(
        0.0, "paste a piece of one image into another, labels by area, Beta(x, x); usual: 1.0 (default: off)"
    )
    train_px: int | None = option(
        None, "side of the random crops in training; below --image_px for CNNs trains faster (default: by recipe)"
    )

    def __post_init__(self):
        if self.trivialaugment and self.randaugment:
            raise OptionError("Expected --trivialaugment or --randaugment, got both. Each is a whole policy.")
        if self.erase is not None:
            check_fraction("erase", self.erase, low_included=True)
        for name in ("mixup", "cutmix"):
            if getattr(self, name) < 0:
                raise OptionError(f"Expected --{name} of 0 or more, got {getattr(self, name)}. Usual: 0.2 to 1.")
        if self.train_px is not None and not 16 <= self.train_px <= 4096:
            raise OptionError(f"Expected --train_px between 16 and 4096, got {self.train_px}. Usual: 128 to 384.")
