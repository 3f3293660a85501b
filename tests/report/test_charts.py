"""Figures as SVG for a page."""

import re

from imgcls.report import charts


def test_svg_takes_the_colour_of_the_page():
    figure = charts.confusion([[3, 1], [0, 2]], ["<a>", "b & c"])
    text = charts.svg(figure, "matrix")
    assert text.startswith("<svg")
    assert "currentColor" in text
    assert charts.INK not in text
    assert "&lt;a&gt;" in text
    assert "<metadata" not in text


def test_svg_ids_differ_between_the_figures_of_a_page_and_are_found():
    curve = charts.coverage([(0.5, 1.0, 0.7), (0.9, 0.5, 0.9)])
    texts = [charts.svg(curve, name) for name in ("first", "second")]
    ids = [set(re.findall(r' id="([^"]+)"', text)) for text in texts]
    assert ids[0]
    assert not ids[0] & ids[1]
    for text, names in zip(texts, ids, strict=True):
        assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', text)) <= names


def test_curves_without_any_loss():
    assert charts.curves([{"epoch": 1, "learning_rate": 0.1}], "accuracy") is None
