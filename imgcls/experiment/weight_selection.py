"""Probe, fine-tuned model, or the average of both: which one a run keeps."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from imgcls.config.training_config import TrainingConfig
from imgcls.evaluation.intervals import significant_margin
from imgcls.models import inference
from imgcls.training.trainer import ImageTrainer

# Share of the way from the probe to the fine-tuned weights. Half-way is often better than either end (Wortsman et al.
# 2022, "Robust fine-tuning of zero-shot models").
FRACTIONS = {"probe": 0.0, "average": 0.5, "fine-tuned": 1.0}


def select_weights(trainer: ImageTrainer, wanted: str = "best", expected: str = "average") -> dict | None:
    """Give the trainer's network the weights that validation likes best, and say which.

    wanted: "best", or the name of the one to keep. expected: what is kept unless another is clearly better
    (`intervals.significant_margin`); "fine-tuned" when the training did not start from the probe, so that their
    average is
    nothing. None when there is no probe. Returns {"kept", "accuracy" of each}.
    """
    if trainer.parts.probe_state is None:
        return None
    network, args = trainer.unwrapped(), trainer.args
    end = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
    labels = np.asarray(trainer.eval_dataset.labels)
    correct = {}
    for name, share in FRACTIONS.items():
        if name == "average" and expected == "fine-tuned" and wanted != name:
            continue
        network.load_state_dict(interpolate_weights(trainer.parts.probe_state, end, share))
        network.eval()
        logits = inference.all_logits(network, trainer.eval_dataset, args)
        correct[name] = logits.argmax(1) == labels
    kept = choose_weights(correct, expected) if wanted == "best" else wanted
    network.load_state_dict(interpolate_weights(trainer.parts.probe_state, end, FRACTIONS[kept]))
    return {"kept": kept, "accuracy": {name: round(float(right.mean()), 4) for name, right in correct.items()}}


def default_weights(config: TrainingConfig) -> str:
    """Return what `select_weights` keeps unless something else is clearly better.

    With class weights the few images of rare classes weigh so much that training memorises them: on six digits at
    100 : 1 the average of probe and fine-tuned weights was 0.05 below the probe.
    """
    if config.mode == "probe_and_full":
        return "fine-tuned"
    return "probe" if config.balances_classes else "average"


def interpolate_weights(start: Mapping[str, torch.Tensor], end: Mapping[str, torch.Tensor], share: float) -> dict:
    """Weights `share` of the way from start to end; whole numbers (counters) are the end's.

    Of an adapter's two factors only the second, which starts at 0, goes the way: then their product does.
    """
    return {
        name: torch.lerp(start[name], value, share) if value.is_floating_point() and ".lora_A." not in name else value
        for name, value in end.items()
    }


def choose_weights(correct: Mapping[str, np.ndarray], expected: str = "average") -> str:
    """The name of the candidate to keep; correct: bool (N,) of each, for the same images in the same order."""
    lead = {name: significant_margin(right, correct[expected]) for name, right in correct.items()}
    best = max(lead, key=lead.__getitem__)
    return best if lead[best] else expected
