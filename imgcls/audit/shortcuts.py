"""Classes that a model could recognise by properties of the files instead of their content (shortcut learning)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TREE_DEPTH = 3  # "taller than 400 px and not a PNG"
FOLDS = 5
MAX_IMAGES, MAX_OTHERS = 500, 1_000  # of the class and of all others: a thousand classes then take seconds
MIN_IMAGES = 10  # of a class; fewer may be alike by chance
MIN_ACCURACY = 0.85  # balanced accuracy that counts as far above chance, 0.5
MIN_LOWER_BOUND = 0.7  # of its 99 % interval


@dataclass(frozen=True)
class Shortcut:
    """A class that file properties identify. feature: the most important one. balanced_accuracy: cross-validated."""

    label: str
    feature: str
    balanced_accuracy: float


def find_shortcuts(labels: np.ndarray, properties: dict[str, np.ndarray], seed: int = 0) -> list[Shortcut]:
    """Classes that a small decision tree on file properties tells from all others, the most obvious first.

    labels: class of each image, (N,). properties: name -> a number for each image, (N,).
    """
    names = [name for name, values in properties.items() if len(np.unique(values)) > 1]
    if not names:
        return []
    features = np.stack([properties[name] for name in names], 1).astype(np.float64)
    order = np.random.default_rng(seed).permutation(len(labels))
    classes, class_index = np.unique(labels, return_inverse=True)
    shortcuts = []
    for k, label in enumerate(classes):
        in_class = class_index[order] == k
        sample = np.concatenate([order[in_class][:MAX_IMAGES], order[~in_class][:MAX_OTHERS]])
        is_class = class_index[sample] == k
        if min(is_class.sum(), (~is_class).sum()) < MIN_IMAGES:
            continue
        accuracy, lower_bound, feature = _fit_tree(features[sample], is_class, seed)
        if accuracy >= MIN_ACCURACY and lower_bound >= MIN_LOWER_BOUND:
            shortcuts.append(Shortcut(str(label), names[feature], accuracy))
    return sorted(shortcuts, key=lambda shortcut: -shortcut.balanced_accuracy)


def _fit_tree(features: np.ndarray, is_class: np.ndarray, seed: int) -> tuple[float, float, int]:
    """Cross-validated balanced accuracy of a tree, the lower end of its interval, and its most important feature."""
    # imports that take a second, and that data sets of uniform files do not need
    from scipy.stats import binomtest
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.tree import DecisionTreeClassifier

    tree = DecisionTreeClassifier(max_depth=TREE_DEPTH, min_samples_leaf=3, class_weight="balanced", random_state=seed)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    correct = np.asarray(cross_val_predict(tree, features, is_class, cv=folds)) == is_class
    recalls, bounds = [], []
    for side in (is_class, ~is_class):
        recalls.append(correct[side].mean())
        bounds.append(binomtest(int(correct[side].sum()), int(side.sum())).proportion_ci(0.99, "wilson").low)
    feature = int(np.argmax(tree.fit(features, is_class).feature_importances_))
    return float(sum(recalls) / 2), float(sum(bounds) / 2), feature
