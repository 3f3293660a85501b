"""Files of a finished run: the pages are made from the others, and made up for when a run was stopped before them."""

import pytest

from imgcls.experiment import run_results
from imgcls.report import report_data


@pytest.fixture
def command(resnet, shapes, tmp_path):
    """Arguments of a short training into tmp_path/run."""
    return ["--model", resnet, "--data", shapes, "--output_dir", tmp_path / "run", "--tune", "full", "--epochs", 2]


def test_write_results_finishes_the_run_before_its_pages(train, command, tmp_path, monkeypatch):
    folder, written = tmp_path / "run", []
    write_training_report = report_data.write_training_report

    def stopped(run, *arguments):
        written.extend(path.name for path in run.path.iterdir())
        raise KeyboardInterrupt

    monkeypatch.setattr(report_data, "write_training_report", stopped)
    assert train(*command).returncode != 0
    assert {"metrics.json", "suspects.csv", "predictions.csv", "logits.npz", "calibration.json"} <= set(written)
    assert not (folder / "report.html").exists()
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    monkeypatch.setattr(report_data, "write_training_report", write_training_report)
    again = train(*command)
    assert again.returncode == 0, again.stderr
    assert "is finished" in again.stderr
    assert "<h2>Confusion matrix</h2>" in (folder / "report.html").read_text()
    assert (folder / "README.md").read_text().startswith("---")
    assert (folder / "figures/curves.png").exists()
    assert before == {path: path.read_bytes() for path in before}


def test_complete_pages_makes_the_same_report_again_and_leaves_the_others_alone(train, command, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    assert train(*command).returncode == 0
    page = (folder / "report.html").read_bytes()
    (folder / "report.html").unlink()
    (folder / "README.md").write_text("my own words")
    assert train(*command).returncode == 0
    assert (folder / "report.html").read_bytes() == page
    assert (folder / "README.md").read_text() == "my own words"
    monkeypatch.setattr(run_results.inference, "load_model", None)  # nothing is missing, so that nothing is loaded
    assert train(*command).returncode == 0


def test_complete_pages_of_a_run_without_predictions(train, command, tmp_path):
    folder = tmp_path / "run"
    assert train(*command).returncode == 0
    for name in ("report.html", "logits.npz"):
        (folder / name).unlink()
    assert train(*command).returncode == 0
    assert not (folder / "report.html").exists()
