"""The table at the end, from a run folder's files."""

import pytest

from imgcls.evaluation.evaluate_adapter import ImageClassification
from imgcls.experiment import summary
from imgcls.storage import run_folder

CLASSES = ["cat", "dog", "eel"]


@pytest.fixture
def run(tmp_path):
    """A run folder whose validation split has 4 images: an eel taken for a dog; no test split."""
    run = run_folder.RunFolder(tmp_path / "run")
    run.path.mkdir()
    logits = [[3.0, 0, 0], [0, 3.0, 0], [0, 3.0, 0], [0, 0, 3.0]]
    validation = ImageClassification(CLASSES).compute(predictions=logits, references=[0, 1, 2, 2])
    train = {
        "images": 12,
        "epochs": 7.0,
        "seconds": 83.4,
        "images_per_second": 1.0,
        "stopped_early": False,
        "best_epoch": 6.0,
    }
    numbers = {"model": "resnet-18", "classes": CLASSES, "initialised": "pretrained", "train": train}
    run.write_json(run_folder.METRICS, {**numbers, "validation": validation, "test": None})
    return run


def test_summary_text_has_the_numbers_of_the_files(run):
    text = summary.summary_text(run)
    assert "resnet-18, from pretrained weights, 3 classes" in text
    assert "12 images x 7 epochs in 1 min 23 s (1 img/s), best epoch 6\n" in text
    (row,) = [line.split() for line in text.splitlines() if line.startswith("validation")]
    assert row == ["validation", "4", "0.750", "0.301", "to", "0.954", "0.778", row[-1]]
    assert not any(line.startswith("test ") for line in text.splitlines())


def test_summary_text_names_weak_classes_and_confusions(run):
    lines = summary.summary_text(run).splitlines()
    at = lines.index("weakest classes")
    assert lines[at + 1].strip() in (
        "dog: F1 0.67, precision 0.50, recall 1.00, support 1",
        "eel: F1 0.67, precision 1.00, recall 0.50, support 2",
    )
    assert "  eel predicted as dog: 1 of 2" in lines


def test_summary_text_shows_findings_with_their_advice(run):
    run.write_json(
        run_folder.DIAGNOSIS, [{"code": "rain", "severity": "warning", "evidence": "It rains", "advice": "Wait."}]
    )
    assert "warning: rain: It rains. Wait." in summary.summary_text(run).splitlines()


def test_summary_text_names_existing_files_and_the_next_command(run):
    text = summary.summary_text(run)
    assert f"written to {run.path}: metrics.json\n" in text
    assert f"--model {run.path} --data FOLDER --output_dir NEW" in text


def test_summary_text_shows_an_infinite_loss(run):
    numbers = run.read_json(run_folder.METRICS)
    numbers["validation"]["loss"] = None
    run.write_json(run_folder.METRICS, numbers)
    assert " inf\n" in summary.summary_text(run)
