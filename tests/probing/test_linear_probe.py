"""The linear probe: scikit-learn's logistic regression, evaluated on held-out images."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from imgcls.probing import linear_probe
from imgcls.probing.linear_probe import LabelledFeatures, fit_probe, out_of_fold_logits


def clouds(per_class, distance, dims=20, seed=0):
    """Gaussian clouds at `distance` from the origin along an axis of their own; features of unequal scale."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(per_class)), per_class)
    features = rng.normal(size=(len(labels), dims))
    features[np.arange(len(labels)), labels] += distance
    return (features * np.geomspace(0.1, 10, dims) + 3).astype(np.float32), labels


def test_fit_probe_gives_the_weights_of_sklearn_for_unscaled_features():
    x, y = clouds([30, 30, 30], 2)
    probe = fit_probe(LabelledFeatures(x, y, 3))
    scaler = StandardScaler().fit(x)
    expected = LogisticRegression(C=probe.strength, max_iter=1000).fit(scaler.transform(x), y)
    logits = x @ probe.weight.T + probe.bias
    np.testing.assert_allclose(logits, expected.decision_function(scaler.transform(x)), atol=1e-3)
    assert probe.weight.dtype == probe.bias.dtype == np.float32


def test_fit_probe_has_a_row_per_class_for_two_classes():
    x, y = clouds([40, 40], 4)
    probe = fit_probe(LabelledFeatures(x, y, 2))
    assert probe.weight.shape == (2, 20)
    assert ((x @ probe.weight.T + probe.bias).argmax(1) == y).mean() > 0.95


@pytest.mark.parametrize(("distance", "low", "high"), [(6, 0.98, 1.0), (0, 0.15, 0.52)])
def test_fit_probe_reports_held_out_accuracy(distance, low, high):
    x, y = clouds([40, 40, 40], distance)
    probe = fit_probe(LabelledFeatures(x, y, 3))
    assert low <= probe.correct.mean() <= high
    assert probe.losses.shape == probe.correct.shape == (120,)


def test_fit_probe_chooses_the_strength_by_the_data():
    noise = fit_probe(LabelledFeatures(*clouds([40, 40, 40], 0.5, dims=200), 3))
    clear = fit_probe(LabelledFeatures(*clouds([400, 400, 400], 5), 3))
    assert noise.strength < clear.strength


def test_fit_probe_allows_classes_of_one_image_and_of_none():
    x, y = clouds([30, 30, 1], 3)
    probe = fit_probe(LabelledFeatures(x, y, 4))
    assert probe.weight.shape == (4, 20)
    assert np.isfinite(probe.losses).all()
    assert (x @ probe.weight.T + probe.bias).argmax(1).max() < 3  # a class without images is never predicted


def test_fit_probe_balanced_raises_recall_of_the_rare_class():
    x, y = clouds([200, 10], 1.5, seed=1)
    test_x, test_y = clouds([200, 200], 1.5, seed=2)

    def recall(balanced):
        probe = fit_probe(LabelledFeatures(x, y, 2), balanced=balanced)
        predicted = (test_x @ probe.weight.T + probe.bias).argmax(1)
        return (predicted[test_y == 1] == 1).mean()

    assert recall(True) > recall(False) + 0.2


def test_fit_probe_compares_strengths_on_a_sample(monkeypatch):
    monkeypatch.setattr(linear_probe, "MAX_COMPARED_IMAGES", 50)
    x, y = clouds([60, 60], 4)
    assert fit_probe(LabelledFeatures(x, y, 2)).losses.shape == (50,)


def test_out_of_fold_logits_leave_out_the_group_of_each_image():
    x, y = clouds([40, 40], 6)
    groups = np.arange(80) // 2  # pairs
    logits = out_of_fold_logits(LabelledFeatures(x, y, 3), 0.1, groups, balanced=False, seed=0)
    assert logits.shape == (80, 3)
    assert (logits.argmax(1) == y).mean() > 0.95
    assert np.isinf(logits[:, 2]).all()  # a class without images
    wrong = y.copy()
    wrong[:2] = 1 - wrong[:2]  # the pair shares a wrong label, which no probe of the other images confirms
    suspicious = out_of_fold_logits(LabelledFeatures(x, wrong, 2), 0.1, groups, balanced=False, seed=0)
    assert (suspicious[:2].argmax(1) == y[:2]).all()
