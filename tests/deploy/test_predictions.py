"""Logits put into words."""

import numpy as np
import pytest

from imgcls.deploy.predictions import PredictionFormatter, prediction_summary
from imgcls.errors import ImageError

CLASSES = ["a", "b", "c"]


def broken(path):
    error = ImageError(path)
    error.__cause__ = ValueError("the file is empty")
    return error


def test_rows_keep_their_places():
    said = PredictionFormatter(CLASSES, temperature=2.0, threshold=0.6, top_k=2)
    rows = said.rows(["1", "2", "3"], np.array([[4.0, 0, 0], [0, 1.0, 0.5]]), {1: broken("2")})
    p = np.exp([2.0, 0, 0]) / np.exp([2.0, 0, 0]).sum()
    assert rows[0]["predicted"] == "a"
    assert rows[0]["confidence"] == pytest.approx(p[0], abs=1e-6)
    assert (rows[0]["unsure"], rows[0]["predicted_2"]) == (0, "b")
    assert rows[1] == {c: "" for c in said.columns} | {"path": "2", "error": "the file is empty"}  # noqa: C420
    assert (rows[2]["predicted"], rows[2]["unsure"], rows[2]["predicted_2"]) == ("b", 1, "c")
    assert all(tuple(row) == said.columns for row in rows)
    assert said.line(rows[2]) == f"3  b {rows[2]['confidence']:.3f}  c {rows[2]['confidence_2']:.3f}  unsure"
    assert said.line(rows[1]) == "2  could not be read: the file is empty"


def test_all_broken_and_nothing_finite():
    said = PredictionFormatter(CLASSES)
    assert said.rows(["1"], np.zeros((0, 0)), {0: broken("1")})[0]["error"]
    (row,) = said.rows(["1"], np.full((1, 3), np.nan), {})
    assert "NaN or infinite" in row["error"]


def test_summary():
    assert prediction_summary({"sure": 1}, 0, None) == "1 image"
    assert prediction_summary({"sure": 2}, 1000, "a.csv") == "2 more images after 1,000: a.csv"
    assert prediction_summary({"sure": 1200, "unsure": 30, "broken": 4}, 0, "a.csv") == (
        "1,234 images, 30 unsure, 4 that could not be read: a.csv"
    )
