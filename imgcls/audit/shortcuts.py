"""Is a class told apart by how its files were made, not by what they show? Then a model learns that instead."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

DEPTH = 3  # of the tree: "taller than 400 px and no PNG"
FOLDS = 5
OF_CLASS, OF_OTHERS = 500, 1_000  # images that a class is told by at most, so that a thousand classes take seconds
LEAST_IMAGES = 10  # of a class; of fewer, anything may be alike by chance
FAR = 0.85  # balanced accuracy that counts as far above chance, 0.5
SURE = 0.7  # and what it must be at the lower end of its 99 % interval


@dataclass(frozen=True)
class Shortcut:
    """A class that facts of its files tell apart. balanced_accuracy: cross-validated; chance is 0.5."""

    label: str
    fact: str
    balanced_accuracy: float


def find_shortcuts(labels: np.ndarray, facts: dict[str, np.ndarray], seed: int = 0) -> list[Shortcut]:
    """Classes that a small decision tree on some facts tells from all others, each with the fact that tells most.

    labels: class of each image, (N,). facts: name -> one number an image, (N,). Worst first.
    """
    names = [name for name, values in facts.items() if len(np.unique(values)) > 1]
    if not names:
        return []
    # a second to import, not needed where all files are alike
    from scipy.stats import binomtest
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.tree import DecisionTreeClassifier

    table = np.stack([facts[name] for name in names], 1).astype(np.float64)
    found = []
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    names_of, number = np.unique(labels, return_inverse=True)
    for k, label in enumerate(names_of):
        at = np.concatenate([order[number[order] == k][:OF_CLASS], order[number[order] != k][:OF_OTHERS]])
        mine = number[at] == k
        if min(mine.sum(), (~mine).sum()) < LEAST_IMAGES:
            continue
        tree = DecisionTreeClassifier(max_depth=DEPTH, min_samples_leaf=3, class_weight="balanced", random_state=seed)
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
        right = cross_val_predict(tree, table[at], mine, cv=folds) == mine
        share = (right[mine].mean() + right[~mine].mean()) / 2
        intervals = [binomtest(int(right[side].sum()), int(side.sum())).proportion_ci(0.99, "wilson")
                     for side in (mine, ~mine)]  # fmt: skip
        low = sum(interval.low for interval in intervals) / 2
        if share >= FAR and low >= SURE:
            telling = names[int(np.argmax(tree.fit(table[at], mine).feature_importances_))]
            found.append(Shortcut(str(label), telling, float(share)))
    return sorted(found, key=lambda one: -one.balanced_accuracy)
