"""Which model suits: rules of thumb by priority, use case, device and number of images."""

from __future__ import annotations

from dataclasses import dataclass, field

from imgcls.config import recipes
from imgcls.models.registry import CHECKPOINTS

# The guide's choices, best first.
BY_PRIORITY = {
    "accuracy": ("vit-large", "resnet-101", "efficientnet-b0"),
    "training_speed": ("resnet-18", "mobilenetv3-small", "vit-small-msn"),
    "size": ("mobilenetv3-small", "resnet-18", "efficientnet-b0"),
    "edge": ("mobilenetv3-small", "efficientnet-b0", "resnet-18"),
}


BY_USE_CASE = {
    "medical": ("vit-large", "resnet-101"),
    "product": ("efficientnet-b0", "resnet-50"),
    "realtime": ("resnet-18", "mobilenetv3-small"),
    "general": ("resnet-50", "vit-base", "efficientnet-b0"),
}


BY_SIZE = {
    "small": ("resnet-18", "mobilenetv3-small"),
    "medium": ("resnet-50", "efficientnet-b0"),
    "large": ("vit-base", "vit-large"),
}


SLOW_ON_CPU = {"vit-large": 40, "vit-base": 12, "resnet-101": 6}  # times resnet-18's arithmetic, rounded


@dataclass(frozen=True)
class ModelRequest:
    """What the owner wants. priority: a key of BY_PRIORITY. use_case: of BY_USE_CASE. device: "cpu", "gpu", "edge"."""

    priority: str = "accuracy"
    use_case: str = "general"
    device: str = "cpu"


@dataclass
class Recommendation:
    """One model with its reasons; `points` order the models."""

    model: str
    points: int = 0
    reasons: list[str] = field(default_factory=list)
    image_px: int = 224


def recommend_by_rules(wish: ModelRequest, images: int) -> list[Recommendation]:
    """The eight models, best first, by the guide's rules: priority, then use case, then the size of the set."""
    size = recipes.dataset_size(images)
    found = {name: Recommendation(name, image_px=CHECKPOINTS[name].image_px) for name in CHECKPOINTS}
    edge_first = wish.use_case == "realtime" and wish.device == "edge"
    use_case = BY_USE_CASE[wish.use_case][:: -1 if edge_first else 1]
    for weight, names, why in (
        (4, BY_PRIORITY[wish.priority], f"{wish.priority.replace('_', ' ')} comes first"),
        (3, use_case, f"use case {wish.use_case}"),
        (2, BY_SIZE[size], f"{size} set of {images:,} images"),
    ):
        for place, name in enumerate(names):
            found[name].points += weight * (len(names) - place)
            found[name].reasons.append(why)
    for name, times in SLOW_ON_CPU.items():
        if wish.device != "gpu":
            found[name].points -= times
            found[name].reasons.append(f"{times} times the work of resnet-18, and no GPU")
    if wish.use_case == "medical":
        for advice in found.values():
            advice.image_px = 384
            advice.reasons.append("fine structures: higher resolution; judge by macro F1")
    return sorted(found.values(), key=lambda advice: -advice.points)
