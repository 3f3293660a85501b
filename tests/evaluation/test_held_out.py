"""Predictions on held-out images are read from a run folder as they were written."""

import numpy as np
import pytest

from imgcls.evaluation import held_out
from imgcls.storage import run_folder
from imgcls.storage.run_folder import RunFolder

CLASSES = ["a", "b"]


@pytest.fixture
def run(tmp_path):
    """A run folder with three validation images and one test image."""
    run = RunFolder(tmp_path / "run")
    rows = [(f"{label}/{i}.jpg", split, label, "a", "0.5", "1") for i, (split, label) in enumerate(
        [("validation", "a"), ("validation", "b"), ("validation", "b"), ("test", "a")])]  # fmt: skip
    run.write_csv(run_folder.PREDICTIONS, run_folder.PREDICTION_COLUMNS, rows)
    logits = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
    run.write_logits(validation=logits[:3], test=logits[3:])
    run.write_json(run_folder.CALIBRATION, {"temperature": 1.0})
    return run


def test_read_predictions_pairs_rows_and_logits(run):
    validation, test = held_out.read_predictions(run, CLASSES)
    assert (validation.name, test.name) == ("validation", "test")
    assert validation.labels.tolist() == [0, 1, 1]
    assert test.paths == ["a/3.jpg"]
    assert np.array_equal(test.logits, run.read_logits()["test"])
    assert validation.predicted.tolist() == validation.logits.argmax(1).tolist()


def test_read_predictions_of_a_folder_without_any(tmp_path):
    assert held_out.read_predictions(RunFolder(tmp_path), CLASSES) == []


def test_read_out_of_fold_is_none_without_folds(run):
    assert held_out.read_out_of_fold(run, CLASSES) is None


def test_read_out_of_fold(run):
    rows = [("a/0.jpg", "fold 1", "a", "a", "0.5", "1"), ("b/1.jpg", "fold 2", "b", "a", "0.5", "0")]
    run.write_csv(run_folder.OUT_OF_FOLD, run_folder.PREDICTION_COLUMNS, rows)
    run.write_logits(run_folder.OUT_OF_FOLD_LOGITS, out_of_fold=np.ones((2, 2), np.float32))
    predictions = held_out.read_out_of_fold(run, CLASSES)
    assert predictions.name == "cross-validated"
    assert predictions.labels.tolist() == [0, 1]
    assert predictions.logits.shape == (2, 2)


def confident(n=40):
    """Predictions that are right but for image 0, whose label is b."""
    truth = np.arange(n) % 2
    labels = np.where(np.arange(n) == 0, 1, truth)
    logits = np.where(truth[:, None] == np.arange(2), 5.0, -5.0)
    return held_out.HeldOutPredictions("test", CLASSES, [f"{i}.jpg" for i in range(n)], labels, logits)


def test_find_suspects_names_a_swapped_label():
    (row,) = held_out.find_suspects(confident(), 1.0)
    assert (row["path"], row["label"], row["suggested"]) == ("0.jpg", "b", "a")


def test_find_suspects_averages_the_opinions_of_probes():
    predictions = confident()
    unsure = np.zeros((40, 3, 2))
    (alone,), (averaged,) = held_out.find_suspects(predictions, 1.0), held_out.find_suspects(predictions, 1.0, unsure)
    assert float(averaged["score"]) == pytest.approx((float(alone["score"]) + 3 * 0.5) / 4, abs=1e-6)


def test_write_training_suspects_reads_all_splits(run):
    held_out.write_training_suspects(run, CLASSES)
    known = {row["path"] for row in run.read_csv(run_folder.PREDICTIONS)}
    assert {row["path"] for row in run.read_csv(run_folder.SUSPECTS)} <= known
    assert (run / run_folder.SUSPECTS).read_text().startswith("path,label,suggested,score\n")


def test_write_training_suspects_of_folds_are_read_by_exclude(train, shapes, resnet, tmp_path):
    folder = tmp_path / "folds"
    arguments = ("--model", resnet, "--data", shapes, "--max_steps", 2, "--folds", 2, "--output_dir", folder)
    assert train(*arguments).returncode == 0
    logits = RunFolder(folder).read_logits(run_folder.OUT_OF_FOLD_LOGITS)
    assert logits["out_of_fold"].shape == (36, 3)
    assert logits["probes"].shape == (36, 3, 3)
    assert "cross-validated" in (folder / "report.html").read_text()
    suspects = RunFolder(folder).read_csv(run_folder.SUSPECTS)
    assert all(row["label"] != row["suggested"] for row in suspects)
    if suspects:
        again = train("--model", resnet, "--data", shapes, "--max_steps", 2, "--exclude", folder / "suspects.csv",
                      "--output_dir", tmp_path / "second")  # fmt: skip
        assert again.returncode == 0, again.stderr
        excluded = {row["path"] for row in RunFolder(tmp_path / "second").read_csv(run_folder.EXCLUDE)}
        assert {row["path"] for row in suspects} <= excluded
