"""The probe: a linear head that separates what can be separated, judged by images it did not see."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from imgcls.probing import linear_probe


def clouds(per_class, distance, dims=20, seed=0):
    """Gaussian clouds at `distance` from the origin along an axis of their own; features of unequal scale."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(per_class)), per_class)
    features = rng.normal(size=(len(labels), dims))
    features[np.arange(len(labels)), labels] += distance
    return (features * np.geomspace(0.1, 10, dims) + 3).astype(np.float32), labels


def test_weights_are_those_of_sklearn_for_unscaled_features():
    x, y = clouds([30, 30, 30], 2)
    found = linear_probe.fit_probe(x, y, 3)
    scaler = StandardScaler().fit(x)
    expected = LogisticRegression(C=found.strength, max_iter=1000).fit(scaler.transform(x), y)
    logits = x @ found.weight.T + found.bias
    np.testing.assert_allclose(logits, expected.decision_function(scaler.transform(x)), atol=1e-3)
    assert found.weight.dtype == found.bias.dtype == np.float32


def test_two_classes_have_two_rows():
    x, y = clouds([40, 40], 4)
    found = linear_probe.fit_probe(x, y, 2)
    assert found.weight.shape == (2, 20)
    assert ((x @ found.weight.T + found.bias).argmax(1) == y).mean() > 0.95


@pytest.mark.parametrize(("distance", "low", "high"), [(6, 0.98, 1.0), (0, 0.15, 0.52)])
def test_cross_validation_tells_the_truth(distance, low, high):
    x, y = clouds([40, 40, 40], distance)
    found = linear_probe.fit_probe(x, y, 3)
    assert low <= found.correct.mean() <= high
    assert found.losses.shape == found.correct.shape == (120,)


def test_strength_follows_the_data():
    noise = linear_probe.fit_probe(*clouds([40, 40, 40], 0.5, dims=200), 3)
    clear = linear_probe.fit_probe(*clouds([400, 400, 400], 5), 3)
    assert noise.strength < clear.strength


def test_a_class_of_one_image_and_one_without_any():
    x, y = clouds([30, 30, 1], 3)
    found = linear_probe.fit_probe(x, y, 4)
    assert found.weight.shape == (4, 20)
    assert np.isfinite(found.losses).all()
    assert (x @ found.weight.T + found.bias).argmax(1).max() < 3  # the class that was never seen is never said


def test_balanced_raises_recall_of_the_rare_class():
    x, y = clouds([200, 10], 1.5, seed=1)
    test_x, test_y = clouds([200, 200], 1.5, seed=2)

    def recall(balanced):
        found = linear_probe.fit_probe(x, y, 2, balanced=balanced)
        said = (test_x @ found.weight.T + found.bias).argmax(1)
        return (said[test_y == 1] == 1).mean()

    assert recall(True) > recall(False) + 0.2


def test_of_many_images_a_sample_is_compared(monkeypatch):
    monkeypatch.setattr(linear_probe, "MOST_IMAGES", 50)
    x, y = clouds([60, 60], 4)
    assert linear_probe.fit_probe(x, y, 2).losses.shape == (50,)
