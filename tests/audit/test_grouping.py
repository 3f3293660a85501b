"""Images that belong together, by folder, by name, by time, as copies; they land on one side of every split."""

import numpy as np
import pytest

from imgcls.audit import grouping
from imgcls.config.data_options import DataOptions
from imgcls.data.listing import ImageFile
from imgcls.errors import OptionError

FILES = [
    ImageFile(path, path.split("/")[-3] if path.count("/") > 1 else path.split("/")[0])
    for path in ("ill/ann/1.jpg", "ill/ann/2.jpg", "ill/bob/1.jpg", "well/ann/3.jpg", "well/4_flip.jpg", "well/4.jpg")
]
NONE = np.zeros(len(FILES), np.int64)


def members(rule, taken=NONE):
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
def test_group_by_rule_ties_images(rule, expected):
    assert members(rule) == expected


def test_group_by_rule_folder_ignores_split_folders_and_missing_class_folders():
    files = [ImageFile("test/test/ann/1.jpg", "test", "test"), ImageFile("train/test/ann/2.jpg", "test", "train"),
             ImageFile("images/1.jpg", "a"), ImageFile("images/2.jpg", "b")]  # fmt: skip
    assert grouping.group_by_rule("folder", files, NONE).tolist() == [[0, 1]]


def test_group_by_rule_exif_time_chains_bursts():
    assert members("exif_time", np.array([100, 109, 118, 200, 0, 0])) == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("rule", "message"),
    [("exif_time", "EXIF times"), ("regex:zebra", "a match of the pattern"), ("regex:(", "regular"), ("side", "none,")],
)
def test_group_by_rule_refuses_rules_without_matches(rule, message):
    def follow():
        DataOptions(group_by=rule)
        grouping.group_by_rule(rule, FILES, NONE)

    with pytest.raises(OptionError, match=message):
        follow()
