"""The calibration of a run and of a model from the Hub."""

import numpy as np
import pytest

from imgcls.evaluation import calibration, run_calibration
from imgcls.storage import run_folder


@pytest.fixture
def run(tmp_path):
    return run_folder.RunFolder(tmp_path)


def test_load_calibration_of_a_run_fits_what_is_missing(run):
    assert run_calibration.load_calibration(run, 0.9) is None
    rng = np.random.default_rng(0)
    true = rng.normal(0, 1.5, (60, 2))
    labels = np.array([rng.choice(2, p=row) for row in calibration.probabilities(true)])
    logits = (3 * true).astype(np.float32)
    run.write_json(run_folder.METRICS, {"classes": ["a", "b"]})
    rows = [(f"{i}.jpg", "validation", "ab"[y], "a", "0.5", 1) for i, y in enumerate(labels)]
    run.write_csv(run_folder.PREDICTIONS, run_folder.PREDICTION_COLUMNS, rows)
    run.write_logits(validation=logits)
    known = run_calibration.load_calibration(run, 0.9)
    assert known["temperature"] == calibration.fit_temperature(logits, labels)
    assert known["threshold"]["min_precision"] == 0.9
    run.write_json(run_folder.CALIBRATION, known)
    assert run_calibration.load_calibration(run, 0.9) == known
    assert run_calibration.load_calibration(run, 0.7)["threshold"]["min_precision"] == 0.7


def test_load_calibration_of_a_hub_model_has_its_own_threshold(run, caplog):
    saved = {"temperature": 1.5, "images": 40, "threshold": {"min_precision": 0.95, "confidence": 0.8}}
    run.write_json("calibration.json", saved)
    assert run_calibration.load_calibration(run, 0.95) == saved
    assert not caplog.text
    assert run_calibration.load_calibration(run, 0.9) == saved
    assert "--min_precision 0.95, not for 0.9" in caplog.text
    for foreign in ([1, 2], {"temperature": 2}, None):
        run.write_json("calibration.json", foreign)
        assert run_calibration.load_calibration(run, 0.95) is None


def test_threshold_text_says_what_the_threshold_means():
    threshold = {"min_precision": 0.95, "confidence": 0.873, "coverage": 17 / 45, "precision": 1.0, "ci95": [0.816, 1]}
    known = {"temperature": 1.0, "images": 45, "threshold": threshold}
    assert run_calibration.threshold_text(known) == (
        'Answers under 87.3 % confidence are marked "unsure". On your 45 validation images, all 17 above it were right '
        "(95 % interval 81.6 to 100.0 %)."
    )
    known["threshold"] = threshold | {"precision": 16 / 17}
    assert "16 of the 17 above it were right" in run_calibration.threshold_text(known)
    known["threshold"] = {"min_precision": 0.99, "confidence": None}
    assert "All answers" in run_calibration.threshold_text(known)
    assert "not calibrated" in run_calibration.threshold_text(None)
