"""Checks of class names."""

import pytest

from imgcls.audit import file_checks


@pytest.mark.parametrize(
    ("names", "alike"),
    [
        (["Cat", "cat", "cats"], [["Cat", "cat", "cats"]]),
        (["fox", "foxes", "pony", "ponies", "bus", "glass"], [["fox", "foxes"], ["ponies", "pony"]]),
        (["red_car", "red car", "Red-Car"], [["Red-Car", "red car", "red_car"]]),
        (["café", "cafe"], [["cafe", "café"]]),
        (["class1", "class2", "1", "11", "left", "right", "a", "as", "?", "!"], []),
        (["-1", "1", "1.5", "15", "C#", "C++", "A+", "A-", "\u304b", "\u304c", "1-2", "12"], []),
    ],
)
def test_alike_finds_names_of_one_class(names, alike):
    assert file_checks._alike(names) == alike
