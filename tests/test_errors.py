"""Names, lists and errors of other libraries in a message."""

from imgcls.errors import nearest, one_line, shorten


def test_nearest_ignores_case_and_starts_with_the_best():
    assert nearest("ResNet18", ["vit", "resnet-18", "resnet-50"], count=2) == ["resnet-18", "resnet-50"]


def test_one_line_joins_lines_and_cuts():
    error = ValueError("first\n   second\tthird ")
    assert one_line(error) == "first second third"
    assert one_line(error, limit=8) == "first se"
    assert one_line("x" * 300) == "x" * 200
    assert one_line("x" * 300, limit=None) == "x" * 300


def test_shorten_counts_what_it_leaves_out():
    assert shorten("cab") == "a, b, c"
    assert shorten(range(7), limit=2) == "0, 1 and 5 more"
