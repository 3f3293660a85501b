"""Features of a frozen backbone and labels -> a linear head: logistic regression, its strength by cross-validation."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax
from threadpoolctl import threadpool_limits

from imgcls.data import stratified_split

# Inverse strengths of the L2 penalty on standardised features. With 300 photos and 1,024 features the best lie
# between 0.01 and 0.1 and differ by less than a point; larger sets want weaker penalties.
STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3)
FOLDS = 5
MOST_IMAGES = 2_000  # of more, strengths are compared on a sample: the comparison costs 25 fits
MAX_ITERATIONS = 1_000


@dataclass(frozen=True)
class LinearProbe:
    """A linear head for unscaled features, and what cross-validation says of it.

    weight: float32 (K, D). bias: float32 (K,). strength: the chosen inverse penalty. losses, correct: cross-entropy
    and 0 or 1 of each compared image (M,), from a fit that did not see it.
    """

    weight: np.ndarray
    bias: np.ndarray
    strength: float
    losses: np.ndarray
    correct: np.ndarray


@threadpool_limits.wrap(limits=1)  # 11 times faster on two cores: the problems are small, and threads wait by spinning
def fit_probe(
    features: np.ndarray, labels: np.ndarray, num_classes: int, *, balanced: bool = False, seed: int = 0
) -> LinearProbe:
    """The probe whose strength gives the lowest cross-validated cross-entropy.

    features: float (N, D). labels: int (N,), each of the `num_classes` at least once. balanced: every class weighs
    the same, as with --class_weights balanced. Classes with one image are never predicted by the fits that leave it
    out. Source: Alain & Bengio 2016 for probes, Kornblith et al. 2019, A.3 for the penalty by validation.
    """
    labels = np.asarray(labels)
    compared = stratified_split.stratified_sample([str(label) for label in labels], MOST_IMAGES, seed)
    x, y = features[compared], labels[compared]
    fold = np.asarray(stratified_split.stratified_group_folds([str(label) for label in y], min(FOLDS, len(y)), seed))
    logits = {c: np.full((len(y), num_classes), -np.inf, np.float32) for c in STRENGTHS}
    for k in range(fold.max() + 1):
        out = fold == k
        if len(np.unique(y[~out])) < 2:
            continue
        for c, (weight, bias, known) in zip(
            STRENGTHS, _regressions(x[~out], y[~out], STRENGTHS, balanced), strict=True
        ):
            logits[c][np.ix_(out, known)] = x[out] @ weight.T + bias
    losses = {c: _cross_entropy(logits[c], y) for c in STRENGTHS}
    strength = min(STRENGTHS, key=lambda c: losses[c].mean())
    ((weight, bias, known),) = _regressions(features, labels, [strength], balanced)
    full_weight = np.zeros((num_classes, features.shape[1]), np.float32)
    full_bias = np.full(num_classes, bias.min(), np.float32)
    full_weight[known], full_bias[known] = weight, bias
    return LinearProbe(full_weight, full_bias, strength, losses[strength], logits[strength].argmax(1) == y)


@threadpool_limits.wrap(limits=1)
def out_of_fold_logits(
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    strength: float,
    groups: Sequence[int],
    *,
    balanced: bool,
    seed: int,
) -> np.ndarray:
    """Logits of each image by a probe that did not see it, float32 (N, K); -inf for classes that the fold lacks.

    groups: number of the group of each image; a probe has seen none of the image's group.
    """
    labels = np.asarray(labels)
    fold = np.asarray(
        stratified_split.stratified_group_folds(
            [str(label) for label in labels], min(FOLDS, len(set(groups))), seed, groups
        )
    )
    found = np.full((len(labels), num_classes), -np.inf, np.float32)
    for k in range(fold.max() + 1):
        out = fold == k
        ((weight, bias, known),) = _regressions(features[~out], labels[~out], [strength], balanced)
        found[np.ix_(out, known)] = features[out] @ weight.T + bias
    return found


def _regressions(
    x: np.ndarray, y: np.ndarray, strengths: Sequence[float], balanced: bool
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each strength: weight (k, D), bias (k,) for unscaled features, and the k classes that occur.

    Each starts from the one before, so that rising strengths take half the steps.
    """
    # half a second and 20 MB, which --tune full does not need
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(x)
    scaled = scaler.transform(x)
    weights = "balanced" if balanced else None
    model = LogisticRegression(max_iter=MAX_ITERATIONS, class_weight=weights, warm_start=True)
    for c in strengths:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a probe that is nearly fitted serves as well
            model.set_params(C=c).fit(scaled, y)
        weight, bias = model.coef_, model.intercept_
        if len(model.classes_) == 2:  # sklearn keeps one row for two classes: the difference of their logits
            weight, bias = np.concatenate([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
        weight = weight / scaler.scale_
        yield weight.astype(np.float32), (bias - weight @ scaler.mean_).astype(np.float32), model.classes_


def _cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """-log p of each image (N,), at most what 1 in 10,000 costs: a class that a fit did not see has p = 0."""
    log_p = log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(labels)), labels]
    return -np.maximum(np.nan_to_num(log_p, nan=-np.inf), np.log(1e-4))
