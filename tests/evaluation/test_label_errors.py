"""Labels that models doubt."""

import numpy as np

from imgcls.evaluation import label_errors


def labels_and_predictions(n=200, k=4, swapped=10, seed=0):
    """Labels of which the first `swapped` are wrong, and two models that know the truth quite well."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, k, n)
    given = true.copy()
    given[:swapped] = (true[:swapped] + 1) % k
    found = []
    for _ in range(2):
        logits = rng.normal(0, 1, (n, k))
        logits[np.arange(n), true] += 4
        found.append(np.exp(logits) / np.exp(logits).sum(1, keepdims=True))
    return given, true, found


def test_find_label_errors_lists_swapped_labels_first():
    given, true, predictions = labels_and_predictions()
    score, order = label_errors.rank_label_errors(given, predictions)
    assert set(order[:10]) == set(range(10))
    assert ((score >= 0) & (score <= 1)).all()
    found = label_errors.find_label_errors(given, predictions)
    assert {i for i, _, _ in found[:8]} <= set(range(10))
    assert all(other == true[i] for i, other, _ in found if i < 10)
    assert [s for _, _, s in found] == sorted(s for _, _, s in found)
    assert 7 <= len(found) <= 20


def test_find_label_errors_is_empty_when_models_agree_with_all_labels():
    given, _, _ = labels_and_predictions(swapped=0)
    sure = np.where(np.eye(4)[given] > 0, 0.97, 0.01)
    assert label_errors.find_label_errors(given, [sure]) == []


def test_find_label_errors_ignores_non_finite_predictions():
    given, _, predictions = labels_and_predictions()
    predictions[0][:] = np.nan
    assert len(label_errors.find_label_errors(given, predictions)) > 0
    assert label_errors.find_label_errors(np.zeros(5, int), [np.full((5, 2), 0.5)]) == []  # one class: nothing to swap
