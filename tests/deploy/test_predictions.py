"""Predictions as rows and text, and copies of the images by class."""

import numpy as np
import pytest

from imgcls.deploy.predictions import PredictionFormatter, copy_into_class_folders, prediction_summary
from imgcls.errors import ImageError

CLASSES = ["a", "b", "c"]


def broken(path):
    error = ImageError(path)
    error.__cause__ = ValueError("the file is empty")
    return error


def test_rows_keep_the_order_of_the_paths():
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


def test_rows_of_broken_and_non_finite_images_have_an_error():
    said = PredictionFormatter(CLASSES)
    assert said.rows(["1"], np.zeros((0, 0)), {0: broken("1")})[0]["error"]
    (row,) = said.rows(["1"], np.full((1, 3), np.nan), {})
    assert "NaN or infinite" in row["error"]


def test_prediction_summary_counts_unsure_and_broken_images():
    assert prediction_summary({"sure": 1}, 0, None) == "1 image"
    assert prediction_summary({"sure": 2}, 1000, "a.csv") == "2 more images after 1,000: a.csv"
    assert prediction_summary({"sure": 1200, "unsure": 30, "broken": 4}, 0, "a.csv") == (
        "1,234 images, 30 unsure, 4 that could not be read: a.csv"
    )


def row(path, predicted="cat", unsure=0, error=""):
    return {"path": str(path), "predicted": predicted, "unsure": unsure, "error": error}


def files(root):
    return {p.relative_to(root).as_posix(): p.read_text() for p in root.rglob("*") if p.is_file()}


def test_copy_into_class_folders_overwrites_nothing_and_copies_once(tmp_path):
    one, two, three = (tmp_path / f"in{i}" / "x.jpg" for i in range(3))
    for i, path in enumerate((one, two, three)):
        path.parent.mkdir()
        path.write_text(f"content {i}")
    out = tmp_path / "out"
    rows = [row(one), row(two), row(three, unsure=1), row(tmp_path / "none.jpg", error="gone"), row("http://h/y.jpg")]
    for _ in range(2):  # a command that goes on may copy its last images again
        copy_into_class_folders(out, rows)
    assert files(out) == {"cat/x.jpg": "content 0", "cat/x-2.jpg": "content 1", "_unsure/x.jpg": "content 2"}
    assert one.read_text() == "content 0"


def test_class_folder_name_makes_safe_names(tmp_path):
    file = tmp_path / "x.jpg"
    file.write_text("x")
    out = tmp_path / "out"
    copy_into_class_folders(out, [row(file, name) for name in ("a/b", "..", "", "_unsure", "c\\d")])
    assert set(files(out)) == {"a_b/x.jpg", "_../x.jpg", "_/x.jpg", "__unsure/x.jpg", "c_d/x.jpg"}
