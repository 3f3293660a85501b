"""Which weights a run keeps: those of the probe, the fine-tuned ones, or their average."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from imgcls.config.training_config import TrainingConfig
from imgcls.evaluation.intervals import significant_margin
from imgcls.models import inference
from imgcls.training.trainer import ImageTrainer

# Fraction of the way from the probe to the fine-tuned weights. Half-way is often better than either end (Wortsman et
# al. 2022, "Robust fine-tuning of zero-shot models").
FRACTIONS = {"probe": 0.0, "average": 0.5, "fine-tuned": 1.0}


def select_weights(trainer: ImageTrainer, choice: str = "best", default: str = "average") -> dict[str, Any] | None:
    """Load the weights with the best validation score into the trainer's network; returns {"kept", "accuracy"}.

    choice: "best", or the name of the weights to keep. default: what is kept unless another is clearly better
    (`intervals.significant_margin`); with "fine-tuned", whose training did not start from the probe, their average is
    meaningless and not tried. "accuracy": validation accuracy by name. Returns None when there is no probe.
    """
    start = trainer.parts.probe_state
    if start is None:
        return None
    network = trainer.unwrapped()
    end = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
    validation = trainer.parts.validation
    correct = {}
    for name, fraction in FRACTIONS.items():
        if name == "average" and default == "fine-tuned" and choice != name:
            continue
        network.load_state_dict(interpolate_weights(start, end, fraction))
        network.eval()
        logits = inference.all_logits(network, validation, trainer.args)
        correct[name] = logits.argmax(1) == np.asarray(validation.labels)
    selected = choose_weights(correct, default) if choice == "best" else choice
    network.load_state_dict(interpolate_weights(start, end, FRACTIONS[selected]))
    accuracy = {name: round(float(is_correct.mean()), 4) for name, is_correct in correct.items()}
    return {"kept": selected, "accuracy": accuracy}


def default_weights(config: TrainingConfig) -> str:
    """Return what `select_weights` keeps unless something else is clearly better.

    With class weights the few images of rare classes weigh so much that training memorises them: on six digits at
    100 : 1 the average of probe and fine-tuned weights was 0.05 below the probe.
    """
    if config.mode == "probe_and_full":
        return "fine-tuned"
    return "probe" if config.balances_classes else "average"


def interpolate_weights(
    start: Mapping[str, torch.Tensor], end: Mapping[str, torch.Tensor], fraction: float
) -> dict[str, torch.Tensor]:
    """Return the weights at a fraction of the way from start to end; integers (counters) are those of the end.

    Of an adapter's two factors only the second, which starts at 0, is interpolated: then their product is, too.
    """
    return {
        name: torch.lerp(start[name], value, fraction)
        if value.is_floating_point() and ".lora_A." not in name
        else value
        for name, value in end.items()
    }


def choose_weights(correct: Mapping[str, np.ndarray], default: str = "average") -> str:
    """Return the name of the weights to keep. correct: bool (N,) by name, for the same images in the same order."""
    margin = {name: significant_margin(is_correct, correct[default]) for name, is_correct in correct.items()}
    best = max(margin, key=margin.__getitem__)
    return best if margin[best] else default
