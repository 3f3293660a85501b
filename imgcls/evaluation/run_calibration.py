"""The calibration of a finished run or of a model folder, read from its files."""

from __future__ import annotations

import logging

import numpy as np

from imgcls.evaluation import calibration
from imgcls.storage import run_folder

log = logging.getLogger(__name__)


def load_calibration(run: run_folder.RunFolder, min_precision: float) -> dict | None:
    """The calibration of a run, as in calibration.json, with the threshold for `min_precision`.

    Fitted now if a run has predictions but no calibration.json. A model from the Hub has calibration.json and no
    predictions, so only the threshold in that file is known. None for a model folder with neither.
    """
    saved = run.read_json(run_folder.CALIBRATION)
    validation = _validation_logits(run)
    if validation is None:
        # in another author's model, a file of this name may contain anything
        if not isinstance(saved, dict) or not {"temperature", "images", "threshold"} <= saved.keys():
            return None
        if saved["threshold"]["min_precision"] != min_precision:
            log.warning(
                "The model's confidence threshold is known only for --min_precision %g, not for %g: using that one.",
                saved["threshold"]["min_precision"],
                min_precision,
            )
        return saved
    logits, labels = validation
    if saved is None:
        return calibration.fit_calibration(logits, np.array(labels), min_precision)
    p = calibration.probabilities(logits, saved["temperature"])
    return saved | {"threshold": calibration.precision_threshold(p, np.array(labels), min_precision)}


def _validation_logits(run: run_folder.RunFolder) -> tuple[np.ndarray, list[int]] | None:
    """Logits (N, K) and labels (N,) of the validation images; None where the folder has none that belong together."""
    classes = (run.read_json(run_folder.METRICS) or {}).get("classes", [])
    rows = run.read_csv(run_folder.PREDICTIONS)
    labels = [classes.index(row["label"]) for row in rows if row["split"] == "validation"]
    logits = run.read_logits().get("validation")
    return None if logits is None or len(logits) != len(labels) else (logits, labels)


def uncalibrated(min_precision: float) -> dict:
    """The part of `load_calibration` that evaluation needs, for a model without a calibration."""
    return {"temperature": 1.0, "threshold": {"min_precision": min_precision}}


def threshold_text(known: dict | None) -> str:
    """What the threshold means for the user, one line. known: see `load_calibration`."""
    if known is None:
        return "Confidence is not calibrated: the model comes without predictions of validation images."
    threshold, images = known["threshold"], known["images"]
    if threshold["confidence"] is None:
        return (
            f'All answers are marked "unsure": on {images} validation images, no confidence reaches a precision of '
            f"{threshold['min_precision']:.0%}. Lower --min_precision, or set --min_confidence."
        )
    above = round(threshold["coverage"] * images)
    right = round(threshold["precision"] * above)
    count = f"all {above}" if right == above else f"{right} of the {above}"
    low, high = (100 * end for end in threshold["ci95"])
    return (
        f'Answers under {100 * threshold["confidence"]:.1f} % confidence are marked "unsure". On your {images} '
        f"validation images, {count} above it were right (95 % interval {low:.1f} to {high:.1f} %)."
    )
