"""Facts of data, model and machine -> hyper-parameters, each with its reason."""

from __future__ import annotations

import math
from dataclasses import dataclass

MIN_STEPS = 150  # below 100-150 optimizer steps a fresh head is not trained, whatever the learning rate
SMALL_DATASET, MEDIUM_DATASET = 1_000, 10_000  # images: the guide's borders between small, medium and large sets
LARGER = 9 / 7
ENLARGED_PX = 256  # from here a checkpoint's own size is taken for the larger one already
MOST_BLOWN_UP, LEAST_PX = 5, 160
SKEWED_RATIO = 5.0  # largest class over smallest: from here accuracy hides the rare classes


@dataclass(frozen=True)
class Facts:
    """What a recipe may look at: nothing of it comes from validation or test images."""

    images: int  # to train on
    classes: int
    largest_over_smallest: float
    family: str  # "vit" or "cnn"
    pretrained: bool
    mode: str = "full"  # see `setup.resolve_mode`
    is_demo: bool = False
    processes: int = 1
    balanced_draws: bool = False  # --sampler balanced was given
    shown_smaller: bool = False  # than the checkpoint's own input, see `input_px`


@dataclass(frozen=True)
class Choice:
    """One hyper-parameter: its option's name, the value, and why."""

    option: str
    value: object
    reason: str


def dataset_size(images: int) -> str:
    """ "small", "medium" or "large": the guide's word for a set of so many images to train on."""
    return "small" if images < SMALL_DATASET else "medium" if images < MEDIUM_DATASET else "large"


def auto_tuning_mode(family: str, images: int) -> str:
    """The mode of --tune auto for a pretrained network: "probe_then_full" or "probe_and_full".

    On 243 photos going on from a probe's head won by 0.063 (0.017 to 0.109) over a fresh one; on 1,221 digits, which
    look like nothing in ImageNet, it lost.
    """
    return "probe_and_full" if family == "cnn" and images >= SMALL_DATASET else "probe_then_full"


def choose_options(facts: Facts, recipe: str = "measured") -> list[Choice]:
    """A value and a reason for every hyper-parameter that depends on the facts. recipe: "measured" or "guide"."""
    if recipe == "guide":
        return _guide(facts)
    batch = _batch(facts)
    return [
        Choice("per_device_train_batch_size", batch, "16 up to 1,000 images, 32 above, less for tiny sets"),
        _learning_rate(facts),
        _epochs(facts, batch * facts.processes),
        *_layers(facts),
        _weight_decay(facts),
        Choice("label_smoothing_factor", 0.1, "calibrates, and forgives a few wrong labels"),
        *_augmentation(facts),
        *_balance(facts),
    ]


# The usual guide, by size of the set: learning rate, epochs, augmentation.
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
        Choice("layer_decay", 1.0, "guide: one rate for all layers"),
        Choice("head_factor", 1.0, "guide: one rate for all layers"),
        Choice("weight_decay", 0.01, "AdamW's own"),
        Choice("augment", strength, why),
        Choice("flip", "none" if facts.is_demo else "horizontal", "a mirrored digit is another sign; photos may be"),
        *_balance(facts),
    ]


def undertraining_warning(facts: Facts, learning_rate: float) -> str | None:
    """A warning when a pretrained network's rate is far below what measured best, as the guide's often is."""
    measured = _learning_rate(facts).value
    if not facts.pretrained or learning_rate >= measured / 10:
        return None
    return (
        f"a learning rate of {learning_rate:g} is expected to undertrain; {measured:g} measured best (on 357 photos "
        f"1e-5 gave a CNN an accuracy of 0.44 instead of 0.79). Leave --recipe and --lr out, or give it."
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
        rate, reason = 1e-3, "adapters start from nothing and bear ten times the rate of whole layers"
    elif facts.mode == "probe_then_full" and facts.family == "cnn":
        rate, reason = 2e-4, "from a probe: 4e-4 measured less stable, 8e-4 lost everything"
    elif not facts.pretrained:
        rate, reason = (
            (5e-4, "from random weights, transformer") if facts.family == "vit" else (1e-3, "from random weights")
        )
    elif facts.family == "vit":
        rate, reason = 5e-5, "pretrained transformer: higher rates wipe out what it knows"
    else:
        rate, reason = (
            4e-4,
            "pretrained CNN: 3e-4 to 6e-4 measured best on real photos (1e-5: 35 points less)",
        )
    return Choice("learning_rate", rate, reason)


def _epochs(facts: Facts, batch: int) -> Choice:
    steps = math.ceil(facts.images / batch)
    if facts.mode == "probe_and_full" and facts.shown_smaller:
        return Choice("num_train_epochs", 6.0, "small inputs are quick: 0.985 on 1,797 digits, 0.976 with 4 at 224 px")
    if facts.mode == "probe_and_full":
        return Choice("num_train_epochs", 4.0, "close to eight, in the time that --tune auto may take")
    if facts.mode != "full":
        reason = "the probe is a start that needs no more"
        short = facts.mode == "probe_then_full" or facts.images >= MEDIUM_DATASET
        return Choice("num_train_epochs", 4.0 if short else 5.0, reason)
    if facts.pretrained:
        base = 10 if facts.images < SMALL_DATASET else 8 if facts.images < MEDIUM_DATASET else 5
    elif facts.is_demo:
        base = 10  # 20 give the same accuracy in twice the time
    else:
        base = 60 if facts.images < MEDIUM_DATASET else 30
    epochs = max(base, math.ceil(MIN_STEPS / steps))
    reason = f"{dataset_size(facts.images)} set" if facts.pretrained else "from random weights"
    if epochs > base:
        reason += f", and at least {MIN_STEPS} steps"
    return Choice("num_train_epochs", float(epochs), reason)


def _layers(facts: Facts) -> list[Choice]:
    from_probe = facts.mode in ("probe_then_full", "lora")
    hold = Choice("batch_norm", "hold", "batches are small, and so the probe's features stay what they are")
    train = Choice("batch_norm", "train", "statistics follow the new images")
    return [
        hold if from_probe else train,
        Choice("layer_decay", 1.0, "0.7 and 0.8 measured no better on few photos"),
        Choice("head_factor", 1.0, "10 measured no better on few photos"),
    ]


def _weight_decay(facts: Facts) -> Choice:
    if facts.pretrained:
        return Choice("weight_decay", 0.01, "light: the pretrained weights are good")
    return Choice("weight_decay", 0.05, "from random weights")


def _augmentation(facts: Facts) -> list[Choice]:
    if facts.mode == "head":
        return []  # features are of the images as they are
    if facts.is_demo:
        return [
            Choice("augment", "light", "digits fill their picture"),
            Choice("flip", "none", "a mirrored digit is another sign"),
        ]
    strength = Choice("augment", "standard", "crops keep at least a third of the photo")
    if facts.pretrained and facts.images >= MEDIUM_DATASET:
        strength = Choice("augment", "light", "large set")
    return [strength, Choice("flip", "horizontal", "photos; give --flip none where left and right matter")]


def input_px(family: str, own_px: int, short_side_px: float) -> int:
    """Side of the input that --tune auto takes for pictures whose shorter side has so many pixels (median).

    CNNs pretrained on random crops see objects larger in training than in evaluation, and are at their best when shown
    about 1.15 to 1.3 times the training size (Touvron et al. 2019), where there are as many pixels: 288 instead of 224
    gave +0.044 on 357 photos. Far smaller pictures gain nothing by being blown up further: digits of 10 and 32 px at
    160 instead of 224 px took two thirds of the time for the same accuracy.
    """
    larger = round(own_px * LARGER / 32) * 32
    smaller = max(LEAST_PX, round(MOST_BLOWN_UP * short_side_px / 32) * 32)
    if family == "cnn" and own_px < ENLARGED_PX and short_side_px >= larger:
        return larger
    return smaller if family == "cnn" and smaller < own_px else own_px


def train_px(family: str, image_px: int) -> Choice:
    """Side of training crops for a network that is shown `image_px` in evaluation.

    192 for 288 px took 0.73 of the time of 224 and was no worse on 357 photos.
    """
    if family == "vit" or image_px < 256:
        return Choice("train_px", image_px, "as in evaluation")
    smaller = round(image_px * 2 / 3 / 32) * 32
    return Choice("train_px", smaller, "random crops magnify: objects look as large as in evaluation (Touvron 2019)")


def cache_px(image_px: int, train_px: int, least_share: float) -> Choice:
    """Shorter side of the photos that are kept: so many pixels that a square crop never has to be enlarged.

    The most elongated ones are, by a seventh at most. least_share: the smallest share of a photo's area that a crop
    shows. Also as many as evaluation resizes to (its middle is cut out of 8/7 of the input), for the features of
    training images.
    """
    needed = max(image_px * 8 / 7, train_px / least_share**0.5)
    return Choice("cache_px", math.ceil(needed / 32) * 32, "so that crops have not to be enlarged")


def _balance(facts: Facts) -> list[Choice]:
    ratio = facts.largest_over_smallest
    if ratio <= SKEWED_RATIO:
        return [Choice("metric_for_best_model", "accuracy", f"classes are within {SKEWED_RATIO:.0f} : 1 of each other")]
    reason = f"the largest class has {ratio:.1f} times the images of the smallest: accuracy would hide it"
    found = [Choice("metric_for_best_model", "macro_f1", reason)]
    if not facts.balanced_draws:
        reason = "else rare classes are hardly ever said (6 digits at 100 : 1: macro recall 0.80 instead of 0.73)"
        found.append(Choice("class_weights", "balanced", reason))
    return found


def apply_choices(choices: list[Choice], given, *options) -> list[str]:
    """Set each choice on the options object that has it, unless the user gave it; returns lines for people.

    given: names that the user gave, tested with `in`. An option that was given is never overruled.
    """
    lines = []
    for choice in choices:
        if choice.option in given:
            continue
        owner = next(o for o in options if hasattr(o, choice.option))
        setattr(owner, choice.option, choice.value)
        if choice.option == "metric_for_best_model":
            owner.greater_is_better = True
        lines.append(f"  {choice.option:<28} {choice.value!s:<10} {choice.reason}")
    return ["options by recipe:", *lines] if lines else []
