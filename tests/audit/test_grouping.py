"""Images that belong together, by folder, by name, by time, as copies; they land on one side of every split."""

import numpy as np
import pytest

from imgcls.audit import grouping
from imgcls.config.data_options import DataOptions
from imgcls.data import stratified_split
from imgcls.data.listing import ImageFile
from imgcls.errors import OptionError

FILES = [
    ImageFile(path, path.split("/")[-3] if path.count("/") > 1 else path.split("/")[0])
    for path in ("ill/ann/1.jpg", "ill/ann/2.jpg", "ill/bob/1.jpg", "well/ann/3.jpg", "well/4_flip.jpg", "well/4.jpg")
]
NONE = np.zeros(len(FILES), np.int64)


def together(rule, taken=NONE):
    number = grouping.merge_groups(len(FILES), grouping.group_by_rule(rule, FILES, taken))
    return sorted(sorted(i.tolist()) for i in grouping.group_members(number))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("none", []),
        ("folder", [[0, 1, 3]]),  # ann's images of both classes; 4 and 4_flip lie in no folder
        (r"regex:(\d+)(_flip)?\.jpg$", [[0, 2], [4, 5]]),
        (r"regex:^ann", [[0, 1, 3]]),
    ],
)
def test_rules(rule, expected):
    assert together(rule) == expected


def test_folders_of_a_split_and_of_no_class_at_all():
    files = [ImageFile("test/test/ann/1.jpg", "test", "test"), ImageFile("train/test/ann/2.jpg", "test", "train"),
             ImageFile("images/1.jpg", "a"), ImageFile("images/2.jpg", "b")]  # fmt: skip
    assert grouping.group_by_rule("folder", files, NONE).tolist() == [[0, 1]]


def test_pictures_of_a_burst_are_chained():
    assert together("exif_time", np.array([100, 109, 118, 200, 0, 0])) == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("rule", "message"),
    [("exif_time", "EXIF times"), ("regex:zebra", "a match of the pattern"), ("regex:(", "regular"), ("side", "none,")],
)
def test_rules_that_cannot_be_followed(rule, message):
    def follow():
        DataOptions(group_by=rule)
        grouping.group_by_rule(rule, FILES, NONE)

    with pytest.raises(OptionError, match=message):
        follow()


@pytest.mark.parametrize("seed", range(5))
def test_groups_stay_whole_and_shares_are_kept(seed):
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(120), rng.integers(1, 6, 120)).tolist()
    labels = [f"c{number % 4}" for number in group]
    split = stratified_split.stratified_group_split(labels, {"validation": 0.2, "test": 0.1}, seed, group)
    fold = stratified_split.stratified_group_folds(labels, 5, seed, group)
    for of in (split, fold):
        assert len(set(zip(group, of, strict=True))) == 120
    for label in set(labels):
        shares = [np.mean([s == part for s, name in zip(split, labels, strict=True) if name == label]) for part in
                  ("validation", "test")]  # fmt: skip
        assert shares == pytest.approx([0.2, 0.1], abs=0.05)
    assert np.ptp(np.bincount(fold)) <= 8


def test_a_class_of_one_group_stays_in_train():
    assert (
        stratified_split.stratified_group_split(
            ["a"] * 5 + ["b"] * 5, {"validation": 0.2}, 0, [0] * 5 + [1, 2, 3, 4, 5]
        )[:5]
        == ["train"] * 5
    )
