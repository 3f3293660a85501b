"""Predictions of models that did not see an image -> images whose label is likely wrong, the likeliest first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from cleanlab.count import num_label_issues
from cleanlab.rank import get_label_quality_scores


def rank_label_errors(labels: np.ndarray, opinions: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Quality of each label (N,), 0 (wrong) to 1, and the order of the images from the worst one on (N,).

    labels: int (N,). opinions: probabilities (N, K) from models that were fitted on other images. The score is the
    mean probability of the label that was given: of what cleanlab offers, margins and adjusted probabilities found
    fewer swapped labels, and three models found more than one (357 photos: 0.64 of them among as many first ones
    instead of 0.61; 500 digits: 0.89 instead of 0.85; ten draws each).
    """
    score = np.mean([get_label_quality_scores(labels, _sound(p), method="self_confidence") for p in opinions], axis=0)
    return score, np.argsort(score, kind="stable")


def find_label_errors(labels: np.ndarray, opinions: Sequence[np.ndarray]) -> list[tuple[int, int, float]]:
    """(position, suggested class, score) of as many images as labels are estimated to be wrong, worst first.

    The number is cleanlab's (Northcutt et al. 2021, "Confident learning"); images for which the models agree with the
    label are none.
    """
    labels = np.asarray(labels)
    if len(np.unique(labels)) < 2:
        return []
    mean = np.mean([_sound(p) for p in opinions], axis=0)
    score, order = rank_label_errors(labels, opinions)
    suggested = mean.argmax(1)
    count = num_label_issues(labels, mean)
    doubted = [int(i) for i in order if suggested[i] != labels[i]]
    return [(i, int(suggested[i]), float(score[i])) for i in doubted[:count]]


def _sound(p: np.ndarray) -> np.ndarray:
    """Probabilities; rows that are not finite say nothing."""
    return np.where(np.isfinite(p).all(1, keepdims=True), p, 1 / p.shape[1])
