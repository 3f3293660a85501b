"""Temperature, reliability and thresholds, against torch and by hand."""

import numpy as np
import pytest
import torch

from imgcls.errors import MetricError
from imgcls.evaluation import calibration


def overconfident(n=2000, k=5, factor=3.0, seed=0):
    """Logits whose softmax is the truth once they are divided by `factor`, and labels drawn from it."""
    rng = np.random.default_rng(seed)
    true = rng.normal(0, 1.5, (n, k))
    p = calibration.probabilities(true)
    labels = np.array([rng.choice(k, p=row) for row in p])
    return (factor * true).astype(np.float32), labels


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_fit_temperature_recovers_a_known_temperature(factor):
    logits, labels = overconfident(factor=factor)
    assert calibration.fit_temperature(logits, labels) == pytest.approx(factor, rel=0.08)


def test_fit_temperature_minimises_torch_s_cross_entropy():
    logits, labels = overconfident(600)
    t = torch.tensor(1.0, requires_grad=True)
    optimizer = torch.optim.LBFGS([t], max_iter=100, line_search_fn="strong_wolfe")
    x, y = torch.from_numpy(logits), torch.from_numpy(labels)

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(x / t, y, label_smoothing=5 / 4 / 602)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert calibration.fit_temperature(logits, labels) == pytest.approx(t.item(), rel=1e-3)


def test_fit_temperature_of_few_correct_images_does_not_reach_certainty():
    logits = np.array([[2.0, 0, 0], [0, 2.0, 0], [0, 0, 2.0]] * 3, np.float32)
    t = calibration.fit_temperature(logits, [0, 1, 2] * 3)
    assert calibration.probabilities(logits, t).max() < 0.95


def test_fit_temperature_must_be_significantly_better_than_one():
    found = [calibration.fit_temperature(*overconfident(43, factor=1.0, seed=seed)) for seed in range(40)]
    assert sum(t != 1 for t in found) <= 6  # 2 of 40 by chance
    assert calibration.fit_temperature(*overconfident(43, factor=3.0)) > 1.5


def test_fit_temperature_changes_confidence_but_no_prediction():
    logits, labels = overconfident()
    t = calibration.fit_temperature(logits, labels)
    before, after = calibration.probabilities(logits), calibration.probabilities(logits, t)
    assert (before.argmax(1) == after.argmax(1)).all()
    assert calibration.calibration_error(after, labels) < 0.3 * calibration.calibration_error(before, labels)
    crossed = calibration.cross_fitted_probabilities(logits, labels)
    assert calibration.calibration_error(crossed, labels) == pytest.approx(
        calibration.calibration_error(after, labels), abs=0.01
    )


def test_fit_temperature_and_calibration_error_ignore_non_finite_images():
    logits, labels = overconfident(50)
    worse = np.vstack([logits, np.full((3, 5), np.nan)])
    more = np.append(labels, [0, 1, 2])
    assert calibration.fit_temperature(worse, more) == calibration.fit_temperature(logits, labels)
    assert calibration.calibration_error(calibration.probabilities(worse), more) == calibration.calibration_error(
        calibration.probabilities(logits), labels
    )
    assert calibration.calibration_error(calibration.probabilities(np.full((2, 5), np.nan)), [0, 1]) is None
    assert calibration.fit_temperature(np.full((2, 5), np.nan), [0, 1]) == 1.0


def test_coverage_curve_and_precision_threshold_equal_a_hand_computation():
    p = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.4, 0.6]])
    labels = [0, 1, 1, 1]  # the third is wrong
    assert calibration.coverage_curve(p, labels) == [
        pytest.approx(entry) for entry in [(0.6, 1.0, 0.75), (0.7, 0.75, 2 / 3), (0.8, 0.5, 1.0), (0.9, 0.25, 1.0)]
    ]
    assert calibration.precision_threshold(p, labels, 0.7)["confidence"] == pytest.approx(0.6)
    found = calibration.precision_threshold(p, labels, 0.99)
    assert (found["confidence"], found["coverage"], found["precision"]) == (0.8, 0.5, 1.0)
    assert calibration.precision_threshold(p, [1, 0, 0, 0], 0.99)["confidence"] is None
    with pytest.raises(MetricError, match="precision"):
        calibration.precision_threshold(p, labels, 0)


def test_coverage_curve_has_one_entry_for_equal_confidences():
    p = np.array([[0.8, 0.2]] * 4 + [[0.6, 0.4]])
    assert [round(c, 2) for _, c, _ in calibration.coverage_curve(p, [0, 0, 0, 1, 0])] == [1.0, 0.8]


def test_reliability_bins_hold_all_images():
    logits, labels = overconfident(700)
    bins = calibration.reliability_bins(calibration.probabilities(logits), labels)
    assert sum(b["images"] for b in bins) == 700
    assert all(b["low"] < b["confidence"] <= b["high"] for b in bins)
    assert len(calibration.reliability_bins(calibration.probabilities(logits[:40]), labels[:40])) <= 4
