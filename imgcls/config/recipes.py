"""Hyperparameters for the facts of data, model and machine, each with its reason."""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import dataclass
from typing import Any

MIN_STEPS = 150  # with fewer than 100 to 150 optimizer steps a fresh head stays untrained at any learning rate
SMALL_DATASET, MEDIUM_DATASET = 1_000, 10_000  # images: the usual borders between small, medium and large sets
EVALUATION_SCALE = 9 / 7  # input size in evaluation over the size that the checkpoint was trained at
ENLARGED_PX = 256  # from this size on a checkpoint is taken to be evaluated at its larger size already
MAX_UPSCALING, MIN_INPUT_PX = 5, 160
SKEWED_RATIO = 5.0  # largest class over smallest: from this ratio on accuracy hides the rare classes


@dataclass(frozen=True)
class Facts:
    """What a recipe depends on. Nothing of it comes from validation or test images."""

    images: int  # in the training set
    classes: int
    imbalance: float  # images of the largest class over those of the smallest
    family: str  # "vit" or "cnn"
    pretrained: bool
    mode: str = "full"  # see `modes.resolve_mode`
    is_demo: bool = False
    processes: int = 1
    balanced_sampler: bool = False  # --sampler balanced was given
    smaller_input: bool = False  # than the checkpoint's, see `input_px`


@dataclass(frozen=True)
class Choice:
    """One hyperparameter: the option's name, its value, and why."""

    option: str
    value: Any
    reason: str


def dataset_size(images: int) -> str:
    """Return "small", "medium" or "large" for a number of training images."""
    return "small" if images < SMALL_DATASET else "medium" if images < MEDIUM_DATASET else "large"


def auto_tuning_mode(family: str, images: int) -> str:
    """Return the mode of --tune auto for a pretrained network: "probe_then_full" or "probe_and_full".

    On 243 photos, fine-tuning from a probe's head won by 0.063 (0.017 to 0.109) over a fresh head; on 1,221 digits,
    which look like nothing in ImageNet, it lost.
    """
    return "probe_and_full" if family == "cnn" and images >= SMALL_DATASET else "probe_then_full"


def choose_options(facts: Facts, recipe: str = "measured") -> list[Choice]:
    """Return a value and a reason for every hyperparameter that depends on the facts. recipe: "measured" or "guide"."""
    if recipe == "guide":
        return _guide(facts)
    batch = _batch(facts)
    return [
        Choice("per_device_train_batch_size", batch, "16 up to 1,000 images, 32 above, less for tiny sets"),
        _learning_rate(facts),
        _epochs(facts, batch * facts.processes),
        *_layers(facts),
        _weight_decay(facts),
        Choice("label_smoothing_factor", 0.1, "improves calibration and tolerates a few wrong labels"),
        *_augmentation(facts),
        *_balance(facts),
    ]


# The usual guide, by size of the training set: learning rate, epochs, augmentation.
_GUIDE = {"small": (1e-5, 15.0, "heavy"), "medium": (5e-5, 8.0, "standard"), "large": (1e-4, 5.0, "light")}


def _guide(facts: Facts) -> list[Choice]:
    size = dataset_size(facts.images)
    rate, epochs, strength = _GUIDE[size]
    why = f"guide, {size} set"
    return [
        Choice("per_device_train_batch_size", 16 if size == "small" else 32, "guide: 4 to 32"),
        Choice("learning_rate", rate, why),
        Choice("num_train_epochs", epochs, why),
        Choice("early_stopping_patience", 3, "guide: stop on a plateau"),
        Choice("batch_norm", "train", "guide: all of the network"),
        Choice("layer_decay", 1.0, "guide: one learning rate for all layers"),
        Choice("head_lr_multiplier", 1.0, "guide: one learning rate for all layers"),
        Choice("weight_decay", 0.01, "AdamW's default"),
        Choice("augment", strength, why),
        Choice(
            "flip",
            "none" if facts.is_demo else "horizontal",
            "a mirrored digit is another sign; photos may be mirrored",
        ),
        *_balance(facts),
    ]


def undertraining_warning(facts: Facts, learning_rate: float) -> str | None:
    """Return a warning when a pretrained network's rate is far below what measured best, as the guide's often is."""
    measured = _learning_rate(facts).value
    if not facts.pretrained or learning_rate >= measured / 10:
        return None
    return (
        f"a learning rate of {learning_rate:g} is likely to undertrain; {measured:g} measured best (on 357 photos "
        f"a CNN reached an accuracy of 0.44 with 1e-5, 0.79 with 4e-4). Omit --recipe and --lr to use it."
    )


def _batch(facts: Facts) -> int:
    batch = 16 if facts.images < SMALL_DATASET else 32
    while batch > 4 and facts.images < 4 * batch * facts.processes:
        batch //= 2
    return batch


def _learning_rate(facts: Facts) -> Choice:
    if facts.mode == "head":
        rate, reason = 1e-3, "one layer on fixed features"
    elif facts.mode == "lora":
        rate, reason = 1e-3, "adapters start at zero and tolerate ten times the rate of full layers"
    elif facts.mode == "probe_then_full" and facts.family == "cnn":
        rate, reason = 2e-4, "safe for fine-tuning a pretrained head: 4e-4 measured less stable, 8e-4 failed"
    elif not facts.pretrained:
        rate, reason = (
            (5e-4, "from random weights, transformer") if facts.family == "vit" else (1e-3, "from random weights")
        )
    elif facts.family == "vit":
        rate, reason = 5e-5, "pretrained transformer: higher rates destroy the pretrained weights"
    else:
        rate, reason = (
            4e-4,
            "pretrained CNN: 3e-4 to 6e-4 measured best on real photos (1e-5: 35 points less)",
        )
    return Choice("learning_rate", rate, reason)


def _epochs(facts: Facts, batch: int) -> Choice:
    steps = math.ceil(facts.images / batch)
    if facts.mode == "probe_and_full" and facts.smaller_input:
        return Choice(
            "num_train_epochs", 6.0, "small inputs are fast: 0.985 on 1,797 digits, 0.976 with 4 epochs at 224 px"
        )
    if facts.mode == "probe_and_full":
        return Choice("num_train_epochs", 4.0, "close to the result of 8 epochs in half the time")
    if facts.mode != "full":
        reason = "enough after the linear probe"
        short = facts.mode == "probe_then_full" or facts.images >= MEDIUM_DATASET
        return Choice("num_train_epochs", 4.0 if short else 5.0, reason)
    if facts.pretrained:
        base = 10 if facts.images < SMALL_DATASET else 8 if facts.images < MEDIUM_DATASET else 5
    elif facts.is_demo:
        base = 10  # 20 reach the same accuracy in twice the time
    else:
        base = 60 if facts.images < MEDIUM_DATASET else 30
    epochs = max(base, math.ceil(MIN_STEPS / steps))
    reason = f"{dataset_size(facts.images)} training set" if facts.pretrained else "from random weights"
    if epochs > base:
        reason += f", and at least {MIN_STEPS} steps"
    return Choice("num_train_epochs", float(epochs), reason)


def _layers(facts: Facts) -> list[Choice]:
    from_probe = facts.mode in ("probe_then_full", "lora")
    hold = Choice("batch_norm", "hold", "batches are small, and the probe's features stay valid")
    train = Choice("batch_norm", "train", "statistics adapt to the new images")
    return [
        hold if from_probe else train,
        Choice("layer_decay", 1.0, "0.7 and 0.8 measured no better on few photos"),
        Choice("head_lr_multiplier", 1.0, "10 measured no better on few photos"),
    ]


def _weight_decay(facts: Facts) -> Choice:
    if facts.pretrained:
        return Choice("weight_decay", 0.01, "light, for pretrained weights")
    return Choice("weight_decay", 0.05, "from random weights")


def _augmentation(facts: Facts) -> list[Choice]:
    if facts.mode == "head":
        return []  # features are of images without augmentation
    if facts.is_demo:
        return [
            Choice("augment", "light", "digits fill their image"),
            Choice("flip", "none", "a mirrored digit is another sign"),
        ]
    strength = Choice("augment", "standard", "crops show at least a third of the photo")
    if facts.pretrained and facts.images >= MEDIUM_DATASET:
        strength = Choice("augment", "light", "large training set")
    return [strength, Choice("flip", "horizontal", "photos; give --flip none if left and right matter")]


def input_px(family: str, own_px: int, short_side_px: float) -> int:
    """Return the side of the input that --tune auto takes for images of this median shorter side.

    CNNs pretrained on random crops see objects larger in training than in evaluation, and are most accurate at about
    1.15 to 1.3 times the training size (Touvron et al. 2019), provided that the photos have as many pixels: 288 instead
    of 224 px gave +0.044 on 357 photos. Far smaller images gain nothing from further upscaling: digits of 10 and 32 px
    at 160 instead of 224 px took two thirds of the time for the same accuracy.
    """
    larger = round(own_px * EVALUATION_SCALE / 32) * 32
    smaller = max(MIN_INPUT_PX, round(MAX_UPSCALING * short_side_px / 32) * 32)
    if family == "cnn" and own_px < ENLARGED_PX and short_side_px >= larger:
        return larger
    return smaller if family == "cnn" and smaller < own_px else own_px


def train_px(family: str, image_px: int) -> Choice:
    """Return the side of training crops for an evaluation input of `image_px`.

    192 for 288 px took 0.73 of the time of 224 and was not worse on 357 photos.
    """
    if family == "vit" or image_px < 256:
        return Choice("train_px", image_px, "as in evaluation")
    smaller = round(image_px * 2 / 3 / 32) * 32
    return Choice("train_px", smaller, "random crops magnify objects to their size in evaluation (Touvron et al. 2019)")


def cache_px(image_px: int, train_px: int, min_crop_area: float) -> Choice:
    """Return the shorter side of cached photos: the smallest size at which no square crop is upsampled.

    Only the most elongated crops are, by a seventh at most. min_crop_area: the smallest fraction of a photo's area that
    a crop shows. The size also covers what evaluation resizes to (its center crop is 7/8 of that), for the features of
    training images.
    """
    needed = max(image_px * 8 / 7, train_px / min_crop_area**0.5)
    return Choice("cache_px", math.ceil(needed / 32) * 32, "the smallest size at which no random crop is upsampled")


def _balance(facts: Facts) -> list[Choice]:
    ratio = facts.imbalance
    if ratio <= SKEWED_RATIO:
        return [Choice("metric_for_best_model", "accuracy", f"class sizes are within {SKEWED_RATIO:.0f} : 1")]
    reason = f"the largest class has {ratio:.1f} times the images of the smallest: accuracy would hide the rare classes"
    choices = [Choice("metric_for_best_model", "macro_f1", reason)]
    if not facts.balanced_sampler:
        reason = "rare classes are hardly ever predicted otherwise (6 digits at 100 : 1: macro recall 0.80, not 0.73)"
        choices.append(Choice("class_weights", "balanced", reason))
    return choices


def open_choices(choices: list[Choice], given: Container[str]) -> list[Choice]:
    """The choices for options that the user did not set. An option that the user set is never overruled."""
    return [choice for choice in choices if choice.option not in given]


def choice_lines(choices: list[Choice]) -> list[str]:
    """Lines that show each option, its value and the reason; none without choices."""
    lines = [f"  {choice.option:<28} {choice.value!s:<10} {choice.reason}" for choice in choices]
    return ["options by recipe:", *lines] if lines else []
