"""Options of the network, of fine-tuning and of augmentation. None means "not given": the recipe then chooses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from imgcls.config.fields import check_fraction, check_px, option
from imgcls.errors import OptionError


@dataclass(frozen=True)
class ModelOptions:
    """Which network, from which weights, at which input size."""

    _argument_group_name = "model"

    model: str = option(
        "resnet-18",
        "vit-base, vit-large, vit-small-msn, resnet-18, resnet-50, resnet-101, efficientnet-b0, mobilenetv3-small, any "
        "Hub id, a local model folder, a run folder to continue from, or auto: the one of the eight that does best on "
        "the images (default: resnet-18)",
    )
    from_scratch: bool = option(False, "start from random weights instead of pretrained ones")
    image_px: int | None = option(
        None,
        "side of the square input in pixels (default: the checkpoint's; with --tune auto larger for CNNs, and smaller "
        "for tiny images)",
    )
    aspect: Literal["auto", "crop", "pad", "squash"] = option(
        "auto",
        "how non-square photos are made square: center crop, pad or squash; auto: as the checkpoint was trained, or "
        "squash if a probe (with --tune auto) or many elongated photos favour it",
    )

    @property
    def fixed_aspect(self) -> str | None:
        """The aspect to set in the image processor; None leaves the processor as it is."""
        return None if self.aspect == "auto" else self.aspect

    def __post_init__(self) -> None:
        if self.model == "auto" and self.from_scratch:
            raise OptionError("Expected --model by name with --from_scratch, got auto: it picks a pretrained one.")
        check_px("image_px", self.image_px, 4096, "160 to 384")


@dataclass(frozen=True)
class TuneOptions:
    """What of a pretrained network is trained, and how fast."""

    _argument_group_name = "fine-tuning"

    tune: Literal["auto", "full", "head", "lora", "probe_then_full"] = option(
        "auto",
        "full: all weights; head: the last layer alone, on features computed once; lora: small adapters and the head, "
        "merged at the end; probe_then_full: a linear probe on frozen features is the initial head, then all weights "
        "are trained, and the run keeps the probe, the fine-tuned weights or their average; auto: that, with the input "
        "chosen by a probe; full from random weights",
    )
    recipe: Literal["measured", "guide"] = option(
        "measured",
        "where values of options that are not given come from: measured best on real photos, or the usual guide's",
    )
    search: int | None = option(
        None,
        "number of hyperparameter-search trials over learning rate, weight decay and layer decay, followed by a "
        "training with the best (requires optuna)",
    )
    feature_crops: int = option(
        1,
        "number of crops per image to extract features from, including the evaluation crop (with --tune head)",
        "--views",
    )
    layer_decay: float | None = option(None, "layer-wise learning-rate decay factor, e.g. 0.75")
    head_lr_multiplier: float | None = option(None, "learning-rate multiplier of the head", "--head_factor")
    batch_norm: Literal["train", "hold"] | None = option(
        None, "hold: batch norm keeps its pretrained statistics (default: by recipe)"
    )
    ema: float | None = option(
        None, "decay of the exponential moving average (EMA) of the weights, e.g. 0.99 (default: off)"
    )
    keep_weights: Literal["best", "probe", "average", "fine-tuned"] = option(
        "best",
        "weights to save after a training that started from a probe; best: the average of probe and fine-tuned weights "
        "(with class weights the probe) unless another is clearly better",
        "--keep",
    )
    lora_rank: int = option(8, "rank of the adapters of --tune lora")
    drop_path: float | None = option(
        None, "stochastic-depth (drop path) rate, for networks that have it (default: the network's)"
    )

    def __post_init__(self) -> None:
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise OptionError(
                f"Expected --layer_decay above 0 and at most 1, got {self.layer_decay}. Usual: 0.65 to 1."
            )
        if self.head_lr_multiplier is not None and self.head_lr_multiplier <= 0:
            raise OptionError(f"Expected --head_lr_multiplier above 0, got {self.head_lr_multiplier}. Usual: 1 to 10.")
        for name, value in (("search", self.search), ("feature_crops", self.feature_crops)):
            if value is not None and value < 1:
                raise OptionError(f"Expected --{name} of 1 or more, got {value}.")
        if self.lora_rank < 1:
            raise OptionError(f"Expected --lora_rank of 1 or more, got {self.lora_rank}. Usual: 4 to 16.")
        if self.ema is not None:
            check_fraction("ema", self.ema)
        if self.drop_path is not None:
            check_fraction("drop_path", self.drop_path, low_included=True)


@dataclass(frozen=True)
class AugmentOptions:
    """How training images are augmented."""

    _argument_group_name = "augmentation"

    augment: Literal["none", "light", "standard", "heavy"] | None = option(
        None, "random crop, rotation, colour and (heavy) erasing (default: by recipe)"
    )
    flip: Literal["none", "horizontal", "both"] | None = option(
        None, "random mirror images; none where a mirror image means something else, as in text (default: by recipe)"
    )
    trivialaugment: bool = option(False, "one random change of shape or colour per image (TrivialAugment)")
    randaugment: bool = option(False, "two random changes of shape or colour per image (RandAugment)")
    erase: float | None = option(None, "probability that a rectangle of an image is erased (default: by --augment)")
    mixup: float = option(
        0.0, "MixUp: blend pairs of images and labels with a weight from Beta(x, x), e.g. 0.2 (default: off)"
    )
    cutmix: float = option(
        0.0, "CutMix: paste a piece of another image, labels by area, size from Beta(x, x), e.g. 1.0 (default: off)"
    )
    train_px: int | None = option(
        None, "side of the random crops in training; below --image_px for CNNs trains faster (default: by recipe)"
    )

    def __post_init__(self) -> None:
        if self.trivialaugment and self.randaugment:
            raise OptionError("Expected --trivialaugment or --randaugment, got both. Each is a complete policy.")
        if self.erase is not None:
            check_fraction("erase", self.erase, low_included=True)
        for name in ("mixup", "cutmix"):
            if getattr(self, name) < 0:
                raise OptionError(f"Expected --{name} of 0 or more, got {getattr(self, name)}. Usual: 0.2 to 1.")
        check_px("train_px", self.train_px, 4096, "128 to 384")
