"""What went wrong in a run, in words: findings with their evidence and what to do."""

from __future__ import annotations

import math


def finding(code: str, severity: str, evidence: str, advice: str) -> dict[str, str]:
    """One entry of diagnosis.json. severity: "error", "warning" or "info"."""
    return {"code": code, "severity": severity, "evidence": evidence, "advice": advice}


def before_training(pretrained: bool, is_demo: bool, images: int) -> list[dict[str, str]]:
    """Findings that are certain before the first step."""
    if pretrained or is_demo or images >= 10_000:
        return []
    return [
        finding(
            "scratch_on_few_images",
            "warning",
            f"random weights and {images:,} images to train on, fewer than 10,000",
            "Leave --from_scratch out: pretrained weights win by far on sets of this size.",
        )
    ]


def after_training(history: list[dict], validation: dict) -> list[dict[str, str]]:
    """Findings from the logged losses and the validation numbers (as in metrics.json) of a finished run."""
    found = []
    losses = [entry["loss"] for entry in history if "loss" in entry]
    chance = math.log(len(validation["per_class"]))
    last = losses[-1] if losses else math.nan
    if not math.isfinite(last):
        evidence = f"the training loss ended at {last}"
        advice = "Lower --lr tenfold; with --fp16, train without it."
        found.append(finding("loss_not_finite", "error", evidence, advice))
    elif last > 0.9 * chance:
        evidence = (
            f"the training loss ended at {last:.2f}; guessing gives ln({len(validation['per_class'])}) = {chance:.2f}"
        )
        advice = "Raise --lr tenfold or --epochs threefold, and look whether the folders hold what their names say."
        found.append(finding("loss_not_falling", "error", evidence, advice))
    matrix = validation["confusion_matrix"]
    predicted = [sum(column) for column in zip(*matrix, strict=True)]
    if sum(1 for count in predicted if count) == 1:
        name = list(validation["per_class"])[max(range(len(predicted)), key=predicted.__getitem__)]
        evidence = f"all {sum(predicted)} validation images were called {name!r}"
        advice = "Train for more --epochs, try --class_weights balanced, and look at the images of that class."
        found.append(finding("one_class_predicted", "error", evidence, advice))
    return found
