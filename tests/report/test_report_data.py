"""Reports are made from the files of a finished folder, and pixels."""

import numpy as np
import pytest
from drawings import photo

from imgcls.evaluation.metrics import compute_metrics
from imgcls.report import report_data
from imgcls.storage import run_folder
from imgcls.storage.run_folder import RunFolder

CLASSES = ["cat", "dog"]
MADE = {"machine": "a machine", "date": "2026-01-31", "versions": {"torch": "2.11"}, "command": "train.py --lr 1"}
TRAIN = {
    "images": 20,
    "epochs": 3.0,
    "seconds": 4.0,
    "images_per_second": 15.0,
    "stopped_early": True,
    "best_epoch": 2.0,
    "waiting": 0.1,
}


def predictions(folder, name, key, logits):
    """Write predictions.csv and logits.npz for a split with images of both classes in turn; returns its metrics."""
    labels = np.arange(len(logits)) % 2
    rows = [(f"{CLASSES[y]}/{i}.jpg", name, CLASSES[y], "cat", "0.5", "1") for i, y in enumerate(labels)]
    folder.write_csv(run_folder.PREDICTIONS, run_folder.PREDICTION_COLUMNS, rows)
    folder.write_logits(**{key: logits})
    return compute_metrics(logits, labels, CLASSES)


@pytest.fixture
def run(tmp_path):
    """A finished run with ten validation images, of which the model gets some wrong."""
    run = RunFolder(tmp_path / "my-run")
    logits = np.random.default_rng(0).normal(size=(10, 2)).astype(np.float32)
    metrics = {
        "model": "resnet-18",
        "initialised": "pretrained",
        "classes": CLASSES,
        "train": TRAIN,
        "selection": {"kept": "average", "accuracy": {"probe": 0.5, "average": 0.6}},
        "validation": predictions(run, "validation", "validation", logits),
        "test": None,
        "cross_validation": None,
        "made": MADE,
    }
    run.write_json(run_folder.METRICS, metrics)
    run.write_json(run_folder.CALIBRATION, {"temperature": 1.5})
    run.write_csv(run_folder.SUSPECTS, run_folder.SUSPECT_COLUMNS, [("cat/0.jpg", "cat", "dog", "0.01")])
    run.write_options({"data": "photos", "lr": 0.1})
    return run


@pytest.fixture
def open_source(tmp_path):
    """One drawing in place of every image."""
    photo(40, 30, 0).save(tmp_path / "a.jpg")
    return lambda path: str(tmp_path / "a.jpg")


@pytest.fixture
def explained(monkeypatch):
    """Requests for heat maps; all of them are answered that there are none."""
    requests = []
    monkeypatch.setattr(report_data.heatmaps, "heatmap_pictures", lambda *arguments: requests.append(arguments))
    return requests


def test_write_training_report_reads_the_folder(run, open_source, explained):
    report_data.write_training_report(run, open_source, None, None)
    page = (run / run_folder.REPORT).read_text()
    accuracy = run.read_json(run_folder.METRICS)["validation"]["accuracy"]
    assert f"<b>{accuracy:.3f}</b>" in page
    for text in (
        "<title>my-run: report</title>",
        "resnet-18, from pretrained weights, 2 classes; 20 images x 3 epochs in 4 s",
        "10\n<bdi>validation</bdi> images",
        "1 photo may be in the wrong folder",
        "the temperature 1.50",
        "Choice of weights",
        "saved",
        "train.py --lr 1",
        "stopped early",
        "torch 2.11",
        "bottleneck",
        "<bdi>photos</bdi>",
    ):
        assert text in page
    ((_, _, sources, targets),) = explained
    assert len(sources) == len(targets) > 0


def test_write_training_report_evaluates_by_the_folds(run, open_source, explained):
    metrics = run.read_json(run_folder.METRICS)
    logits = np.tile(np.array([[5, 0]], np.float32), (20, 1))
    labels = np.arange(20) % 2
    rows = [(f"{CLASSES[y]}/{i}.jpg", f"fold {y}", CLASSES[y], "cat", "0.5", "1") for i, y in enumerate(labels)]
    run.write_csv(run_folder.OUT_OF_FOLD, run_folder.PREDICTION_COLUMNS, rows)
    run.write_logits(run_folder.OUT_OF_FOLD_LOGITS, out_of_fold=logits)
    run.write_json(run_folder.METRICS, metrics | {"cross_validation": compute_metrics(logits, labels, CLASSES)})
    report_data.write_training_report(run, open_source, None, None)
    page = (run / run_folder.REPORT).read_text()
    assert "20\n<bdi>cross-validated</bdi> images" in page
    assert "<b>0.500</b>" in page
    assert not explained  # the folds' networks are gone


def test_write_evaluation_report_reads_the_folder(run, open_source, explained):
    folder = RunFolder(run / "validation/new")
    logits = np.random.default_rng(1).normal(size=(12, 2)).astype(np.float32)
    test = {"difference": 0.125, "ci95": [-0.1, 0.3], "only_first": 3, "only_second": 1, "p_value": 0.25}
    metrics = {
        "model": "runs/my-run",
        "classes": CLASSES,
        "test": predictions(folder, "new", "test", logits),
        "calibration": {"temperature": 1.0},
        "corruptions": [{"kind": "blur", "unit": "px", "value": 2, "images": 12, "accuracy": 0.25, "clean": 0.5}],
        "tta": {"against": test},
        "comparison": test,
        "made": MADE,
    }
    folder.write_json(run_folder.METRICS, metrics)
    report_data.write_evaluation_report(folder, open_source, None, None, data="photos", calibrated_on=False)
    page = (folder / run_folder.REPORT).read_text()
    for text in (
        "<title>my-run on new: report</title>",
        "evaluated on 12 images of photos",
        "2 px",
        "0.250",
        "test-time augmentation",
        "+0.125",
        "-0.100 to +0.300",
        f"--run {run.path}",
    ):
        assert text in page
    assert "scripts/train.py" not in page


def test_report_facts_of_a_run_of_an_older_version():
    facts = report_data.report_facts({"train": {k: v for k, v in TRAIN.items() if k != "waiting"}})
    assert list(facts) == ["training"]
