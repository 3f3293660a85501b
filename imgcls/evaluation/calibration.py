"""Logits and labels -> a temperature that makes confidence mean what it says, and how far to trust which answers."""

from __future__ import annotations

import logging

import numpy as np
from scipy.optimize import minimize_scalar

from imgcls.data import stratified_split
from imgcls.errors import MetricError
from imgcls.evaluation.intervals import wilson_interval
from imgcls.evaluation.scores import ECE_BINS, expected_calibration_error, log_softmax
from imgcls.storage import run_folder

log = logging.getLogger(__name__)

LIMITS = (0.05, 20.0)  # of a temperature: outside, logits are nothing that a scale can mend
CLEARLY = 1.92  # half of the 95 % point of chi-squared with one degree of freedom
FOLDS = 5
MIN_PRECISION = 0.95


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The T for which softmax(logits / T) has the lowest cross-entropy on these images; 1.0 unless T is clearly better.

    logits: float (N, K), rows that are not finite are left out. labels: int (N,). Targets are smoothed by 1 / (N + 2),
    as Platt 1999 does: else a few images that are all right would ask for certainty. Source: Guo et al. 2017, 4.2.
    Clearly better: by a likelihood-ratio test at 95 % (Wilks 1938). With 43 validation images of a model that was
    calibrated already, T lay between 0.7 and 1.3, and raised the error on others from 0.046 to 0.059.
    """
    finite = np.isfinite(logits).all(1)
    logits, labels = logits[finite].astype(np.float64), np.asarray(labels)[finite]
    n = len(labels)
    if not n:
        return 1.0
    own, share = np.arange(n), 1 / (n + 2)

    def cost(log_t: float) -> float:
        log_p = log_softmax(logits / np.exp(log_t))
        others = (log_p.sum(1) - log_p[own, labels]) / (logits.shape[1] - 1)
        return -((1 - share) * log_p[own, labels] + share * others).sum()

    best = minimize_scalar(cost, bounds=np.log(LIMITS), method="bounded")
    return float(np.exp(best.x)) if cost(0.0) - best.fun > CLEARLY else 1.0


def probabilities(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """float64 (N, K); rows whose logits are not finite are NaN."""
    with np.errstate(invalid="ignore"):
        return np.exp(log_softmax(np.asarray(logits, np.float64) / temperature))


def cross_fitted_probabilities(logits: np.ndarray, labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """Calibrated probabilities of each image by a temperature that was fitted on the others, float64 (N, K)."""
    labels = np.asarray(labels)
    if len(labels) < FOLDS:
        return probabilities(logits)
    fold = np.asarray(stratified_split.stratified_group_folds([str(label) for label in labels], FOLDS, seed))
    found = np.empty(logits.shape, np.float64)
    for k in range(FOLDS):
        out = fold == k
        found[out] = probabilities(logits[out], fit_temperature(logits[~out], labels[~out]))
    return found


def reliability_bins(p: np.ndarray, labels: np.ndarray) -> list[dict]:
    """Confidence against accuracy: {"low", "high", "images", "confidence", "accuracy", "ci95"} of each filled bin.

    p: float (N, K). As many equally wide bins as `scores.expected_calibration_error` has, fewer for few images: else
    each would hold two or three, whose accuracy is chance.
    """
    confidence, correct = confidence_and_correct(p, labels)
    bins = min(ECE_BINS, max(4, len(confidence) // 20))
    at = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    found = []
    for b in np.unique(at):
        mine = at == b
        hits, n = int(correct[mine].sum()), int(mine.sum())
        found.append({
            "low": b / bins, "high": (b + 1) / bins, "images": n, "confidence": float(confidence[mine].mean()),
            "accuracy": hits / n, "ci95": list(wilson_interval(hits, n)),
        })  # fmt: skip
    return found


def confidence_and_correct(p: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Confidence and correctness of each image whose probabilities are finite: float (n,), bool (n,)."""
    finite = np.isfinite(p).all(1)
    return p[finite].max(1), p[finite].argmax(1) == np.asarray(labels)[finite]


def calibration_error(p: np.ndarray, labels: np.ndarray) -> float | None:
    """ECE; None when no image has finite probabilities."""
    confidence, correct = confidence_and_correct(p, labels)
    return expected_calibration_error(confidence, correct) if len(confidence) else None


def coverage_curve(p: np.ndarray, labels: np.ndarray) -> list[tuple[float, float, float]]:
    """(threshold, share of images at or above it, accuracy of these), from all images to the surest ones.

    One entry for each different confidence: images that are equally sure are kept or refused together.
    """
    confidence, correct = confidence_and_correct(p, labels)
    if not len(confidence):
        return []
    order = np.argsort(-confidence, kind="stable")
    hits, kept = np.cumsum(correct[order]), np.arange(1, len(order) + 1)
    last = np.append(confidence[order][1:] != confidence[order][:-1], True)
    entries = zip(confidence[order][last], kept[last] / len(p), hits[last] / kept[last], strict=True)
    return [tuple(map(float, entry)) for entry in entries][::-1]


def precision_threshold(p: np.ndarray, labels: np.ndarray, min_precision: float) -> dict:
    """The lowest confidence from which on answers are right in a share of `min_precision` of these images.

    Returns {"min_precision", "confidence" (None: no threshold reaches it), "coverage", "precision", "ci95"}.
    """
    if not 0 < min_precision <= 1:
        raise MetricError(f"Expected a precision above 0 and up to 1, got {min_precision}.")
    for confidence, covered, precision in coverage_curve(p, labels):
        if precision >= min_precision:
            kept = round(covered * len(p))
            interval = list(wilson_interval(round(precision * kept), kept))
            return {"min_precision": min_precision, "confidence": confidence, "coverage": covered,
                    "precision": precision, "ci95": interval}  # fmt: skip
    return {"min_precision": min_precision, "confidence": None, "coverage": 0.0, "precision": None, "ci95": None}


def fit_calibration(logits: np.ndarray, labels: np.ndarray, min_precision: float = MIN_PRECISION) -> dict:
    """What calibration.json says: temperature, ECE before and after (each image by a temperature of the others), and
    the threshold below which an answer is called unsure."""
    labels = np.asarray(labels)
    temperature = fit_temperature(logits, labels)
    return {
        "temperature": temperature,
        "images": len(labels),
        "ece_before": calibration_error(probabilities(logits), labels),
        "ece_after": calibration_error(cross_fitted_probabilities(logits, labels), labels),
        "threshold": precision_threshold(probabilities(logits, temperature), labels, min_precision),
    }


def uncalibrated(min_precision: float) -> dict:
    """As `fit_calibration`, for a model that comes without predictions of images it did not learn from."""
    return {"temperature": 1.0, "threshold": {"min_precision": min_precision}}


def load_calibration(run: run_folder.RunFolder, min_precision: float) -> dict | None:
    """What calibration.json says of a run, with the threshold for `min_precision`; fitted anew where there is none.

    A model from the Hub brings calibration.json and no predictions: of it only its own threshold is known. None for a
    model folder that holds neither.
    """
    classes = (run.read_json(run_folder.METRICS) or {}).get("classes", [])
    labels = [
        classes.index(row["label"]) for row in run.read_csv(run_folder.PREDICTIONS) if row["split"] == "validation"
    ]
    logits = run.read_logits().get("validation")
    known = run.read_json(run_folder.CALIBRATION)
    if logits is None or len(logits) != len(labels):
        if not isinstance(known, dict) or not {"temperature", "images", "threshold"} <= known.keys():
            return None  # of another's model, a file of this name may be anything
        if known["threshold"]["min_precision"] != min_precision:
            log.warning(
                "confidence: a threshold for --min_precision %g is not known of this model, only for %g: answers are "
                "called unsure by that one", min_precision, known["threshold"]["min_precision"],
            )  # fmt: skip
        return known
    if known is None:
        return fit_calibration(logits, labels, min_precision)
    p = probabilities(logits, known["temperature"])
    return known | {"threshold": precision_threshold(p, labels, min_precision)}


def temperature_and_threshold(trust: dict | None, min_confidence: float | None) -> tuple[float, float]:
    """(temperature, threshold) for answers, with a line on what the threshold means. trust: see `load_calibration`.

    min_confidence: a threshold that the user gave instead.
    """
    temperature = 1.0 if trust is None else trust["temperature"]
    if min_confidence is not None:
        return temperature, min_confidence
    if trust is None:
        log.warning("confidence: not calibrated, since the model comes without predictions of validation images")
        return temperature, 0.0
    found = trust["threshold"]
    wanted = f"{found['min_precision']:.0%} of answers right"
    if found["confidence"] is None:
        log.warning(
            "confidence: all answers are called unsure: on %d validation images no confidence gives %s. Lower "
            "--min_precision, or give --min_confidence.", trust["images"], wanted,
        )  # fmt: skip
        return temperature, 1.01
    log.info(
        "confidence: below %.3f an answer is unsure: at and above it %.1f %% of the %d validation images, %.1f %% of "
        "them right (95 %% interval %.1f to %.1f)", found["confidence"], 100 * found["coverage"], trust["images"],
        100 * found["precision"], *(100 * end for end in found["ci95"]),
    )  # fmt: skip
    return temperature, found["confidence"]
