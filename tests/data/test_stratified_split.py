"""Stratified splits over many random label sets."""

from collections import Counter

import numpy as np
import pytest

from imgcls.data.stratified_split import stratified_group_folds, stratified_group_split, stratified_sample
from imgcls.errors import OptionError

ONE = {"validation": 0.2}
TWO = {"validation": 0.15, "test": 0.1}


def random_labels(rng):
    """Up to 12 classes of 1 to 60 images each, in any order."""
    sizes = rng.integers(1, 61, size=rng.integers(1, 13))
    labels = [f"class {i}" for i, size in enumerate(sizes) for _ in range(size)]
    rng.shuffle(labels)
    return labels


def table(labels, found):
    """class -> Counter of splits."""
    counts = {}
    for label, split in zip(labels, found, strict=True):
        counts.setdefault(label, Counter())[split] += 1
    return counts


@pytest.mark.parametrize("fractions", [ONE, {"validation": 0.01}, {"validation": 0.9}], ids=str)
def test_stratified_group_split_has_classes_of_two_on_both_sides(fractions):
    for seed in range(150):
        labels = random_labels(np.random.default_rng(seed))
        for counts in table(labels, stratified_group_split(labels, fractions, seed)).values():
            size = counts.total()
            assert set(counts) <= {"train", "validation"}
            assert counts["train"] >= 1
            assert counts["validation"] >= (size >= 2)


@pytest.mark.parametrize("fractions", [TWO, {"validation": 0.01, "test": 0.01}, {"validation": 0.3, "test": 0.3}])
def test_stratified_group_split_has_classes_of_three_in_all_splits(fractions):
    for seed in range(150):
        labels = random_labels(np.random.default_rng(seed))
        for counts in table(labels, stratified_group_split(labels, fractions, seed)).values():
            size = counts.total()
            assert counts["train"] >= 1
            assert counts["validation"] >= (size >= 2)
            assert counts["test"] >= (size >= 3)


@pytest.mark.parametrize("fractions", [{"validation": 0.9, "test": 0.09}, {"validation": 0.6, "test": 0.3}])
@pytest.mark.parametrize("size", range(3, 12))
def test_stratified_group_split_leaves_one_for_the_second_split(fractions, size):
    assert set(stratified_group_split(["a"] * size, fractions, 0)) == {"train", "validation", "test"}


def test_stratified_group_split_sizes_are_near_the_fraction():
    for seed in range(150):
        labels = random_labels(np.random.default_rng(seed))
        for counts in table(labels, stratified_group_split(labels, TWO, seed)).values():
            size = counts.total()
            if size < 4:
                continue
            for split, fraction in TWO.items():
                assert abs(counts[split] - fraction * size) <= 1


@pytest.mark.parametrize(("size", "fraction"), [(10, 0.15), (10, 0.25), (17, 0.15), (30, 0.15), (13, 0.2)])
def test_stratified_group_split_rounds_by_chance(size, fraction):
    """Rounded to the nearest, 100 classes of 10 would give 0.20 where 0.15 was asked for."""
    labels = [f"class {i}" for i in range(400) for _ in range(size)]
    for seed in range(5):
        got = stratified_group_split(labels, {"validation": fraction}, seed).count("validation")
        assert abs(got - fraction * len(labels)) < 4 * 10  # four standard deviations: 400 draws of at most 0.5


def test_stratified_group_split_is_exact_for_whole_numbers():
    """29 of 100 too, although 0.29 * 100 is 28.999999999999996."""
    for size, fraction, expected in [(20, 0.15, 3), (100, 0.29, 29), (100, 0.07, 7), (10, 0.3, 3)]:
        for seed in range(50):
            assert stratified_group_split(["a"] * size, {"validation": fraction}, seed).count("validation") == expected


def test_stratified_group_split_is_the_same_on_every_platform():
    """Stored from Python 3.11: Python promises that .random() stays, of .shuffle() it does not say so."""
    found = stratified_group_split(["a", "b"] * 6, TWO, 0)
    assert "".join(split[1] for split in found) == "rrrerarrerar"  # r: train, a: validation, e: test
    assert stratified_group_folds(["a", "b"] * 4, 3, 0) == [0, 1, 2, 0, 0, 1, 1, 2]


def test_stratified_group_split_depends_on_the_seed():
    labels = random_labels(np.random.default_rng(3)) + ["big"] * 50
    assert stratified_group_split(labels, TWO, 5) == stratified_group_split(labels, TWO, 5)
    assert stratified_group_split(labels, TWO, 5) != stratified_group_split(labels, TWO, 6)


def test_stratified_group_split_samples_all_positions_alike():
    """Not simply the first ones: over many seeds each position is drawn about as often."""
    drawn = Counter()
    for seed in range(400):
        drawn.update(
            i for i, split in enumerate(stratified_group_split(["a"] * 10, ONE, seed)) if split == "validation"
        )
    assert drawn.total() == 800
    assert min(drawn.values()) > 45
    assert max(drawn.values()) < 120


def test_stratified_group_split_keeps_other_classes_when_one_is_added():
    rng = np.random.default_rng(0)
    for seed in range(50):
        labels = random_labels(rng)
        before = stratified_group_split(labels, TWO, seed)
        more = [(label, i) for i, label in enumerate(labels)] + [("new", None)] * int(rng.integers(1, 30))
        at = rng.permutation(len(more))
        more = sorted((more[i] for i in at), key=lambda m: (m[1] is None, m[1]) if seed % 2 else (False, m[1] or 0))
        after = stratified_group_split([label for label, _ in more], TWO, seed)
        for (_, i), split in zip(more, after, strict=True):
            if i is not None:
                assert split == before[i]


def test_stratified_group_split_of_classes_of_one_and_two():
    assert stratified_group_split(["a"], TWO, 0) == ["train"]
    assert sorted(stratified_group_split(["a", "a"], TWO, 0)) == ["train", "validation"]
    assert sorted(stratified_group_split(["a", "a"], {"test": 0.1}, 0)) == ["test", "train"]


def test_stratified_group_split_of_nothing():
    assert stratified_group_split([], TWO, 0) == []
    assert stratified_group_split(["a", "b"], {}, 0) == ["train", "train"]


@pytest.mark.parametrize(
    "fractions",
    [
        {"validation": 0.0},
        {"validation": 1.0},
        {"validation": -0.1},
        {"validation": 1.5},
        {"validation": 0.5, "test": 0.5},
        {"validation": 0.7, "test": 0.7},
        {"validation": 0.2, "test": 0.0},
        {"validation": float("nan")},
    ],
    ids=str,
)
def test_stratified_group_split_refuses_fractions_that_leave_nothing(fractions):
    with pytest.raises(OptionError, match="Expected fractions"):
        stratified_group_split(["a"] * 10, fractions, 0)


def test_stratified_group_folds_are_even():
    rng = np.random.default_rng(0)
    for seed in range(200):
        labels = random_labels(rng)
        count = int(rng.integers(2, 11))
        if len(labels) < count:
            continue
        found = stratified_group_folds(labels, count, seed)
        sizes = Counter(found)
        assert set(sizes) == set(range(count))
        assert max(sizes.values()) - min(sizes.values()) <= 1
        for of_class in table(labels, found).values():
            per_fold = [of_class[fold] for fold in range(count)]
            assert max(per_fold) - min(per_fold) <= 1


def test_stratified_group_folds_are_seeded_and_shuffled():
    labels = random_labels(np.random.default_rng(3)) + ["big"] * 50
    assert stratified_group_folds(labels, 5, 1) == stratified_group_folds(labels, 5, 1)
    assert stratified_group_folds(labels, 5, 1) != stratified_group_folds(labels, 5, 2)
    assert stratified_group_folds(["a"] * 50, 5, 1) != [i % 5 for i in range(50)]
    assert stratified_group_folds([*labels, *["new"] * 7], 5, 1)[: len(labels)] == stratified_group_folds(labels, 5, 1)


@pytest.mark.parametrize(("size", "count"), [(10, 1), (10, 0), (10, -2), (3, 4), (0, 2)])
def test_stratified_group_folds_refuses_folds_that_cannot_be_filled(size, count):
    with pytest.raises(OptionError, match="folds"):
        stratified_group_folds(["a"] * size, count, 0)


def test_stratified_sample_has_about_as_many_and_some_of_every_class():
    labels = ["a"] * 900 + ["b"] * 98 + ["c"] * 2
    chosen = stratified_sample(labels, 100, seed=0)
    assert chosen == sorted(set(chosen)) == stratified_sample(labels, 100, seed=0)
    assert 98 <= len(chosen) <= 102
    assert {labels[i] for i in chosen} == {"a", "b", "c"}
    assert stratified_sample(labels, 1000, seed=0) == list(range(1000))


@pytest.mark.parametrize("seed", range(5))
def test_stratified_group_split_and_folds_keep_groups_whole_and_fractions(seed):
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(120), rng.integers(1, 6, 120)).tolist()
    labels = [f"c{number % 4}" for number in group]
    split = stratified_group_split(labels, {"validation": 0.2, "test": 0.1}, seed, group)
    fold = stratified_group_folds(labels, 5, seed, group)
    for part_of in (split, fold):
        assert len(set(zip(group, part_of, strict=True))) == 120
    for label in set(labels):
        fractions = [np.mean([s == part for s, name in zip(split, labels, strict=True) if name == label]) for part in
                  ("validation", "test")]  # fmt: skip
        assert fractions == pytest.approx([0.2, 0.1], abs=0.05)
    assert np.ptp(np.bincount(fold)) <= 8


def test_stratified_group_split_keeps_a_class_of_one_group_in_train():
    assert (
        stratified_group_split(["a"] * 5 + ["b"] * 5, {"validation": 0.2}, 0, [0] * 5 + [1, 2, 3, 4, 5])[:5]
        == ["train"] * 5
    )
