"""Logistic regression on frozen features as a linear head, regularised by cross-validation."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax
from threadpoolctl import threadpool_limits

from imgcls.data import stratified_split

# Inverse regularisation strengths (scikit-learn's C) on standardised features. With 300 photos and 1,024 features the
# best lie between 0.01 and 0.1 and differ by less than a point; larger sets need weaker regularisation.
STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3)
FOLDS = 5
MAX_COMPARED_IMAGES = 2_000  # strengths are compared on a sample of these: the comparison costs 25 fits
MAX_ITERATIONS = 1_000
MIN_PROBABILITY = 1e-4  # of the correct class, in the cross-entropy: a class absent from a fold has probability 0


@dataclass(frozen=True)
class LabelledFeatures:
    """What a probe is fitted on. features: float (N, D). labels: int (N,), below `num_classes`."""

    features: np.ndarray
    labels: np.ndarray
    num_classes: int

    def select(self, indices: np.ndarray | Sequence[int]) -> LabelledFeatures:
        """The images at these positions, or where a mask is true."""
        return LabelledFeatures(self.features[indices], self.labels[indices], self.num_classes)

    def fold_of_each(self, count: int, seed: int, groups: Sequence[int] | None = None) -> np.ndarray:
        """The stratified fold of each image, int (N,); images of a group are in the same fold."""
        labels = [str(label) for label in self.labels]
        return np.asarray(stratified_split.stratified_group_folds(labels, count, seed, groups))


@dataclass(frozen=True)
class LinearProbe:
    """A linear head for unscaled features, and its cross-validated loss and accuracy.

    weight: float32 (K, D). bias: float32 (K,). strength: the chosen inverse regularisation strength. losses, correct:
    cross-entropy, and whether the prediction is correct, of each compared image (M,), by a fit without it.
    """

    weight: np.ndarray
    bias: np.ndarray
    strength: float
    losses: np.ndarray
    correct: np.ndarray


@threadpool_limits.wrap(limits=1)  # 11 times faster on two cores: the problems are small, and threads wait by spinning
def fit_probe(data: LabelledFeatures, *, balanced: bool = False, seed: int = 0) -> LinearProbe:
    """Fit the probe with the strength of the lowest cross-validated cross-entropy.

    data: two classes at least. balanced: every class weighs the same, as with --class_weights balanced. A class with
    a single image is never predicted by the fits without it. Source: Alain & Bengio 2016 for probes, Kornblith et al.
    2019, A.3 for choosing the regularisation by validation.
    """
    labels = [str(label) for label in data.labels]
    compared = data.select(stratified_split.stratified_sample(labels, MAX_COMPARED_IMAGES, seed))
    logits = _cross_validate(compared, balanced, seed)
    losses = {strength: _cross_entropy(logits[strength], compared.labels) for strength in STRENGTHS}
    strength = min(STRENGTHS, key=lambda strength: losses[strength].mean())
    ((weight, bias, classes),) = _regressions(data, [strength], balanced)
    full_weight = np.zeros((data.num_classes, data.features.shape[1]), np.float32)
    full_bias = np.full(data.num_classes, bias.min(), np.float32)
    full_weight[classes], full_bias[classes] = weight, bias
    correct = logits[strength].argmax(1) == compared.labels
    return LinearProbe(full_weight, full_bias, strength, losses[strength], correct)


def _cross_validate(data: LabelledFeatures, balanced: bool, seed: int) -> dict[float, np.ndarray]:
    """For each strength the logits of each image by a fit without it, float32 (N, K); -inf for absent classes."""
    fold_of_each = data.fold_of_each(min(FOLDS, len(data.labels)), seed)
    logits = {strength: np.full((len(data.labels), data.num_classes), -np.inf, np.float32) for strength in STRENGTHS}
    for fold in range(fold_of_each.max() + 1):
        held_out = fold_of_each == fold
        fitted = data.select(~held_out)
        if len(np.unique(fitted.labels)) < 2:
            continue
        heads = _regressions(fitted, STRENGTHS, balanced)
        for strength, (weight, bias, classes) in zip(STRENGTHS, heads, strict=True):
            logits[strength][np.ix_(held_out, classes)] = data.features[held_out] @ weight.T + bias
    return logits


@threadpool_limits.wrap(limits=1)
def out_of_fold_logits(
    data: LabelledFeatures, strength: float, groups: Sequence[int], *, balanced: bool, seed: int
) -> np.ndarray:
    """Logits of each image by a probe fitted without it, float32 (N, K); -inf for classes absent from the fold.

    groups: group number of each image; a probe is fitted without all images of its group.
    """
    fold_of_each = data.fold_of_each(min(FOLDS, len(set(groups))), seed, groups)
    logits = np.full((len(data.labels), data.num_classes), -np.inf, np.float32)
    for fold in range(fold_of_each.max() + 1):
        held_out = fold_of_each == fold
        ((weight, bias, classes),) = _regressions(data.select(~held_out), [strength], balanced)
        logits[np.ix_(held_out, classes)] = data.features[held_out] @ weight.T + bias
    return logits


def _regressions(
    data: LabelledFeatures, strengths: Sequence[float], balanced: bool
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each strength: weight (k, D) and bias (k,) for unscaled features, and the k classes that occur.

    Each fit starts from the one before, so that rising strengths take half the iterations.
    """
    # half a second and 20 MB, which --tune full does not need
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(data.features)
    scaled = scaler.transform(data.features)
    class_weight = "balanced" if balanced else None
    model = LogisticRegression(max_iter=MAX_ITERATIONS, class_weight=class_weight, warm_start=True)
    for strength in strengths:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a nearly converged probe is good enough
            model.set_params(C=strength).fit(scaled, data.labels)
        weight, bias = np.asarray(model.coef_), np.asarray(model.intercept_)
        if len(model.classes_) == 2:  # scikit-learn has one row for two classes: the difference of their logits
            weight, bias = np.concatenate([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
        weight = weight / np.asarray(scaler.scale_)
        yield weight.astype(np.float32), (bias - weight @ np.asarray(scaler.mean_)).astype(np.float32), model.classes_


def _cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """-log p of the correct class (N,), at most that of MIN_PROBABILITY."""
    log_p = log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(labels)), labels]
    return -np.maximum(np.nan_to_num(log_p, nan=-np.inf), np.log(MIN_PROBABILITY))
