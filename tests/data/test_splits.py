"""Splits of a data set and its cross-validation folds."""

import logging

import pytest
from drawings import class_folders

from imgcls.config.data_options import DataOptions
from imgcls.data import dataset
from imgcls.data.location import resolve_location
from imgcls.data.splits import DatasetSplits, make_splits
from imgcls.errors import FolderError


@pytest.fixture
def shapes(tmp_path):
    return class_folders(tmp_path / "shapes", per_class=10)


@pytest.fixture
def images(shapes):
    """30 images in 3 classes."""
    return dataset.open_images(resolve_location(str(shapes)))


def paths(images):
    return [file.path for file in images.listing.files]


def sizes(splits):
    return {name: len(split) for name, split in splits.items()}


def test_make_splits_depends_on_the_seed_and_uses_each_image_once(images):
    options = DataOptions(val_fraction=0.2, test_fraction=0.1)
    first, again, other = (make_splits(images, {}, options, seed) for seed in (1, 1, 2))
    assert first.table() == again.table() != other.table()
    assert sorted(path for path, *_ in first.table()) == paths(images)
    assert sizes(first) == {"train": 21, "validation": 6, "test": 3}
    assert set(first.validation.labels) == {0, 1, 2}


def test_make_splits_leaves_excluded_images_out(images, caplog):
    caplog.set_level(logging.INFO)
    splits = make_splits(images, {0: "cut off", 5: "no image"}, DataOptions(), 0)
    assert set(splits.merged().paths) == set(paths(images)) - {paths(images)[0], paths(images)[5]}
    assert "2 images excluded" in caplog.text
    assert f"{paths(images)[0]} (cut off)" in caplog.text


def test_make_splits_refuses_to_exclude_a_whole_class(images):
    with pytest.raises(FolderError, match="circle"):
        make_splits(images, dict.fromkeys(range(10), "broken"), DataOptions(), 0)


def test_make_splits_keeps_the_splits_of_the_data(tmp_path):
    for split in ("train", "valid", "test"):
        class_folders(tmp_path / split, per_class=3)
    splits = make_splits(dataset.open_images(resolve_location(str(tmp_path))), {}, DataOptions(), 0)
    assert sizes(splits) == {"train": 9, "validation": 9, "test": 9}


def test_make_splits_warns_of_groups_in_several_given_splits(tmp_path, caplog):
    for split in ("train", "valid"):
        class_folders(tmp_path / split, per_class=3)
    images = dataset.open_images(resolve_location(str(tmp_path)))
    make_splits(images, {}, DataOptions(group_by="folder"), 0, groups=[i % 9 for i in range(18)])
    assert "9 groups of --group_by lie in several of the splits" in caplog.text


def test_split_fields_agree_at_each_position(images, shapes):
    splits = make_splits(images, {}, DataOptions(test_fraction=0.2), 0, groups=range(30))
    for _, split in splits.items():
        assert [key.removeprefix(f"{shapes}/") for key in split.keys] == split.paths
        assert [row["image"]["path"] for row in split.rows] == split.keys
        assert [splits.classes[label] for label in split.labels] == [path.split("/")[0] for path in split.paths]
        assert [paths(images)[group] for group in split.groups] == split.paths


def test_split_select_takes_positions_in_order(images):
    train = make_splits(images, {}, DataOptions(), 0).train
    chosen = train.select([4, 0])
    assert chosen.paths == [train.paths[4], train.paths[0]]
    assert chosen.keys == [train.keys[4], train.keys[0]]
    assert chosen.labels == [train.labels[4], train.labels[0]]
    assert len(train.select([])) == 0


def test_split_imbalance_is_largest_over_smallest_class(images):
    train = make_splits(images, {}, DataOptions(), 0).train
    circles, crosses = ([i for i, label in enumerate(train.labels) if label == k] for k in (0, 1))
    assert train.imbalance() == 1
    assert train.select(circles[:6] + crosses[:4]).imbalance() == 1.5


def test_dataset_splits_getitem_raises_for_a_missing_split(images):
    splits = make_splits(images, {}, DataOptions(), 0)
    assert splits["train"] is splits.train
    assert [name for name, _ in splits.items()] == ["train", "validation"]
    with pytest.raises(KeyError):
        splits["test"]


def test_table_names_a_group_by_its_first_path(images):
    groups = list(range(30))
    groups[7] = groups[2]
    rows = make_splits(images, {}, DataOptions(), 0, groups).table()
    assert {path: group for path, _, _, group in rows if group} == dict.fromkeys(
        (paths(images)[2], paths(images)[7]), paths(images)[2]
    )


def test_folds_test_each_image_in_exactly_one_fold(images):
    splits = make_splits(images, {}, DataOptions(test_fraction=0.2), 0)
    pool = {*splits.train.paths, *splits.validation.paths}
    folds = list(splits.folds(3, 0.2, seed=0))
    assert sorted(path for fold in folds for path in fold["test"].paths) == sorted(pool)
    for fold in folds:
        parts = [set(split.paths) for _, split in fold.items()]
        assert len(parts) == 3
        assert set.union(*parts) == pool
        assert sum(map(len, parts)) == len(pool)
        assert [len(split.rows) for _, split in fold.items()] == [len(split) for _, split in fold.items()]


def test_folds_need_two_images_in_each_class(images):
    splits = make_splits(images, {}, DataOptions(), 0)
    one_circle, no_circle = (
        split.select([i for i, label in enumerate(split.labels) if label or i == keep])
        for split, keep in ((splits.train, splits.train.labels.index(0)), (splits.validation, -1))
    )
    with pytest.raises(FolderError, match="got 1 in circle"):
        next(DatasetSplits(splits.classes, one_circle, no_circle).folds(2, 0.2, seed=0))
