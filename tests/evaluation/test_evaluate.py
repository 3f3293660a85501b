"""scripts/validate.py on a small finished run."""

import csv
import json
import shutil
import sys

import numpy as np
import pytest
from commands import TESTS, TRAIN, main_of
from drawings import class_folders, photo

from imgcls.config import parser

VALIDATE = TESTS.parent / "scripts" / "validate.py"


@pytest.fixture
def validate(monkeypatch, capsys):
    """Run scripts/validate.py: (exit code, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [str(VALIDATE), *map(str, arguments)])
        code = parser.run_main(main_of(VALIDATE))
        output = capsys.readouterr()
        return code, output.out, output.err

    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory, shapes, resnet):
    """A finished run on the shapes, with a test split."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    arguments = ("--model", resnet, "--data", shapes, "--epochs", 2, "--test_fraction", 0.25, "--output_dir", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(TRAIN), *map(str, arguments)])
        assert parser.run_main(main_of(TRAIN)) == parser.EXIT_OK
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the finished run."""
    return shutil.copytree(finished, tmp_path / "run")


def rows(file):
    with open(file, newline="", encoding="utf-8") as text:
        return list(csv.DictReader(text))


def test_evaluate_run_on_held_out_images_repeats_the_numbers_of_training(validate, run):
    before = {p: p.read_bytes() for p in run.iterdir() if p.is_file()}
    code, out, err = validate("--run", run)
    assert code == parser.EXIT_OK, err
    folder = run / "validation" / "test"
    repeated, trained = (json.loads((f / "metrics.json").read_text())["test"] for f in (folder, run))
    assert repeated["accuracy"] == trained["accuracy"]
    assert repeated["confusion_matrix"] == trained["confusion_matrix"]
    assert repeated["loss"] == pytest.approx(trained["loss"], abs=1e-5)
    assert {p.name for p in folder.iterdir()} == {
        "metrics.json", "predictions.csv", "logits.npz", "report.html", "suspects.csv", "figures",
    }  # fmt: skip
    assert before == {p: p.read_bytes() for p in run.iterdir() if p.is_file()}  # files of the training are unchanged
    assert "accuracy" in out


def test_evaluate_run_matches_the_classes_of_a_folder_by_name(validate, run, tmp_path):
    other = class_folders(tmp_path / "other", classes=("square", "circle"), per_class=5, seed=9)
    (other / "circle" / "broken.jpg").write_bytes(b"no image")
    code, out, err = validate("--run", run, "--data", other, "--tta", "--corruptions", "--name", "x")
    assert code == parser.EXIT_OK, err
    assert "broken.jpg" in err
    assert "no images of cross" in err
    metrics = json.loads((run / "validation/x/metrics.json").read_text())
    assert metrics["classes"] == ["circle", "cross", "square"]
    assert metrics["test"]["images"] == 10
    assert {r["label"] for r in rows(run / "validation/x/predictions.csv")} == {"circle", "square"}
    assert len(metrics["corruptions"]) == 21
    assert metrics["tta"]["views"] == 4
    assert "with --tta" in out
    assert "JPEG" in out
    assert "Robustness" in (run / "validation/x/report.html").read_text()


def test_compare_models_of_equal_runs_finds_no_difference(validate, run, tmp_path):
    second = shutil.copytree(run, tmp_path / "second")
    code, out, err = validate("--run", run, "--compare", second)
    assert code == parser.EXIT_OK, err
    assert "p = 1" in out
    assert rows(run / "validation/test/differences.csv") == []


def test_evaluate_run_errors_are_one_line(validate, run, tmp_path):
    strange = tmp_path / "strange"
    for name in ("circle", "hexagon"):
        (strange / name).mkdir(parents=True)
        photo(40, 30, 0).save(strange / name / "a.jpg")
    for arguments, words in (
        (["--run", run, "--data", strange], ["hexagon", "circle, cross, square"]),
        (["--run", run, "--data", tmp_path / "none"], ["none"]),
        (["--run", run, "--split", "train", "--data", strange], ["split"]),
        (["--run", run, "--min_precision", "2"], ["--min_precision"]),
        (["--run", run, "--name", "a/b"], ["--name"]),
        ([], ["--run"]),
    ):
        code, _, err = validate(*arguments)
        assert code == parser.EXIT_ERROR
        assert err.count("error:") == 1
        assert all(word in err for word in words), err


def test_open_evaluation_set_warns_of_training_images(validate, run, shapes):
    code, _, err = validate("--run", run, "--data", shapes)
    assert code == parser.EXIT_OK
    assert "was trained on" in err


def test_open_evaluation_set_without_the_training_data_asks_for_data(validate, run, shapes, tmp_path):
    options = (run / "options.yaml").read_text()
    (run / "options.yaml").write_text(options.replace(str(shapes), str(tmp_path / "moved")))
    code, _, err = validate("--run", run)
    assert code == parser.EXIT_ERROR
    assert "--data" in err


def test_check_not_other_evaluation_refuses_another_folder_of_the_same_name(validate, run, tmp_path):
    for parent in ("one", "two"):
        class_folders(tmp_path / parent / "photos", per_class=3)
    assert validate("--run", run, "--data", tmp_path / "one/photos")[0] == parser.EXIT_OK
    assert validate("--run", run, "--data", tmp_path / "one/photos")[0] == parser.EXIT_OK
    code, _, err = validate("--run", run, "--data", tmp_path / "two/photos")
    assert code == parser.EXIT_ERROR
    assert "--name" in err


def test_evaluate_run_expands_the_home_folder_and_keeps_the_logits_of_training(validate, run, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    code, _, err = validate("--run", f"~/{run.name}", "--name", "home")
    assert code == parser.EXIT_OK, err
    assert (run / "validation/home/metrics.json").exists()
    with np.load(run / "logits.npz") as logits:
        assert set(logits) == {"validation", "test"}
