"""Runs next to each other: which images they were evaluated on, which options differ, table and page."""

import pytest

from imgcls.report import comparison
from imgcls.report.comparison import Comparison
from imgcls.storage import run_folder
from imgcls.storage.run_folder import RunFolder

ROW = {
    "run": "runs/<a>",
    "data": "photos",
    "model": "resnet-18",
    "tune": None,
    "input_px": 224,
    "trained_on": 1200,
    "judged_by": "test",
    "images": 300,
    "accuracy": 0.9,
    "accuracy_ci95": [0.85, 0.94],
    "macro_f1": 0.88,
    "loss": None,
    "training_s": 61.4,
    "megabytes": 44.73,
    "latency_ms": 12.34,
}


@pytest.fixture
def runs(tmp_path):
    """Two run folders with the same test images."""
    runs = [RunFolder(tmp_path / name) for name in "ab"]
    for lr, run in enumerate(runs):
        run.write_options({"data": str(tmp_path), "lr": lr, "seed": 0, "model": f"model {lr}"})
        run.write_csv(run_folder.SPLIT, run_folder.SPLIT_COLUMNS, [("a/1.jpg", "a", "test", "")])
    return runs


def test_are_comparable_runs_have_the_same_test_images(runs):
    assert comparison.are_comparable([ROW, ROW], runs)
    runs[1].write_csv(run_folder.SPLIT, run_folder.SPLIT_COLUMNS, [("a/2.jpg", "a", "test", "")])
    assert not comparison.are_comparable([ROW, ROW], runs)


def test_are_comparable_runs_have_the_same_data(runs, tmp_path):
    runs[1].write_options({"data": str(tmp_path / "other")})
    assert not comparison.are_comparable([ROW, ROW], runs)


def test_differing_options_leaves_out_equal_ones_and_those_of_the_table(runs):
    assert comparison.differing_options(runs) == {"lr": [0, 1]}


def test_comparison_table_has_a_line_per_run_and_the_warning():
    lines = comparison.comparison_table(Comparison([ROW, ROW], {"lr": [0, 1]}, False)).splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["runs/<a>", "runs/<a>"]
    assert comparison.NOT_COMPARABLE in lines
    assert lines[-1] == "  lr: 0, 1"


def test_render_comparison_holds_every_number():
    page = comparison.render_comparison(Comparison([ROW, ROW], {"lr": [0, 1]}, False))
    for text in ("runs/&lt;a&gt;", "1,200", "300 test", "0.900", "0.850 to 0.940", "0.880", "61", "44.7", "12.3", "lr"):
        assert text in page
    assert "different images" in page
    assert "different images" not in comparison.render_comparison(Comparison([ROW], {}, True))
