"""Rules of thumb for choosing a model: priority, use case, device and number of images."""

from __future__ import annotations

from dataclasses import dataclass, field

from imgcls.config import recipes
from imgcls.models.registry import CHECKPOINTS

# The first fits best.
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
SLOW_ON_CPU = {"vit-large": 40, "vit-base": 12, "resnet-101": 6}  # multiples of resnet-18's FLOPs, rounded


@dataclass(frozen=True)
class ModelRequest:
    """What a model is for. priority: a key of BY_PRIORITY. use_case: of BY_USE_CASE. device: "cpu", "gpu" or "edge"."""

    priority: str = "accuracy"
    use_case: str = "general"
    device: str = "cpu"


@dataclass
class Recommendation:
    """A model with its reasons; models are sorted by `points`."""

    model: str
    points: int = 0
    reasons: list[str] = field(default_factory=list)
    image_px: int = 224


def recommend_by_rules(request: ModelRequest, images: int) -> list[Recommendation]:
    """All known models, best first, by rules on priority, then use case, then the number of training images."""
    size = recipes.dataset_size(images)
    by_name = {name: Recommendation(name, image_px=CHECKPOINTS[name].image_px) for name in CHECKPOINTS}
    edge_first = request.use_case == "realtime" and request.device == "edge"
    use_case = BY_USE_CASE[request.use_case][:: -1 if edge_first else 1]
    for weight, names, reason in (
        (4, BY_PRIORITY[request.priority], f"{request.priority.replace('_', ' ')} comes first"),
        (3, use_case, f"use case {request.use_case}"),
        (2, BY_SIZE[size], f"{size} set of {images:,} images"),
    ):
        for position, name in enumerate(names):
            by_name[name].points += weight * (len(names) - position)
            by_name[name].reasons.append(reason)
    for name, multiple in SLOW_ON_CPU.items():
        if request.device != "gpu":
            by_name[name].points -= multiple
            by_name[name].reasons.append(f"{multiple} times the work of resnet-18, and no GPU")
    if request.use_case == "medical":
        for recommendation in by_name.values():
            recommendation.image_px = 384
            recommendation.reasons.append("fine structures: higher resolution; judge by macro F1")
    return sorted(by_name.values(), key=lambda recommendation: -recommendation.points)
