"""scripts/validate.py and scripts/compare.py on small finished runs."""

import csv
import json
import shutil
import sys

import numpy as np
import pytest
from commands import TESTS, main_of
from drawings import class_folders, photo

from imgcls.config import parser

SCRIPTS = TESTS.parent / "scripts"


@pytest.fixture
def script(monkeypatch, capsys):
    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        code = parser.run_main(main_of(SCRIPTS / name))
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


@pytest.fixture
def run(train, shapes, resnet, tmp_path):
    """A finished run on the shapes, with a test split."""
    folder = tmp_path / "run"
    done = train("--model", resnet, "--data", shapes, "--epochs", 2, "--test_fraction", 0.25, "--output_dir", folder)
    assert done.returncode == 0, done.stderr
    return folder


def rows(file):
    with open(file, newline="", encoding="utf-8") as text:
        return list(csv.DictReader(text))


def test_what_was_held_out_gives_the_run_s_own_numbers(script, run):
    before = {p: p.read_bytes() for p in run.iterdir() if p.is_file()}
    code, out, err = script("validate.py", "--run", run)
    assert code == parser.EXIT_OK, err
    found = run / "validation" / "test"
    mine, own = (json.loads((f / "metrics.json").read_text())["test"] for f in (found, run))
    assert mine["accuracy"] == own["accuracy"]
    assert mine["confusion_matrix"] == own["confusion_matrix"]
    assert mine["loss"] == pytest.approx(own["loss"], abs=1e-5)
    assert {p.name for p in found.iterdir()} == {
        "metrics.json", "predictions.csv", "logits.npz", "report.html", "suspects.csv", "figures",
    }  # fmt: skip
    assert before == {
        p: p.read_bytes() for p in run.iterdir() if p.is_file()
    }  # the training's own files are as they were
    assert "accuracy" in out


def test_a_labelled_folder_is_matched_by_name(script, run, tmp_path):
    other = class_folders(tmp_path / "other", classes=("square", "circle"), per_class=5, seed=9)
    (other / "circle" / "broken.jpg").write_bytes(b"no image")
    code, out, err = script("validate.py", "--run", run, "--data", other, "--tta", "--corruptions", "--name", "x")
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


def test_two_runs(script, run, shapes, tmp_path):
    second = tmp_path / "second"
    shutil.copytree(run, second)
    code, out, err = script("validate.py", "--run", run, "--compare", second)
    assert code == parser.EXIT_OK, err
    assert "p = 1" in out
    assert rows(run / "validation/test/differences.csv") == []
    code, out, err = script("compare.py", run, second, tmp_path, "--out", tmp_path / "c.html")
    assert code == parser.EXIT_OK
    assert f"skipped: Expected a finished run in {tmp_path}" in err
    assert [line.split()[0] for line in out.splitlines()[1:3]] == [str(run), str(second)]
    assert "options that differ" not in out
    assert "<table" in (tmp_path / "c.html").read_text()
    code, out, _ = script("compare.py", run, "--json")
    (row,) = json.loads(out)["runs"]
    own = json.loads((run / "metrics.json").read_text())["test"]
    assert (row["accuracy"], row["judged_by"]) == (own["accuracy"], "test")
    assert row["latency_ms"] > 0
    assert script("compare.py", tmp_path)[0] == parser.EXIT_ERROR


def test_mistakes(script, run, shapes, tmp_path):
    strange = tmp_path / "strange"
    for name in ("circle", "hexagon"):
        (strange / name).mkdir(parents=True)
        photo(40, 30, 0).save(strange / name / "a.jpg")
    options = (run / "options.yaml").read_text()
    for arguments, words in (
        (["--run", run, "--data", strange], ["hexagon", "circle, cross, square"]),
        (["--run", run, "--data", tmp_path / "none"], ["none"]),
        (["--run", run, "--split", "train", "--data", strange], ["split"]),
        (["--run", run, "--min_precision", "2"], ["--min_precision"]),
        (["--run", run, "--name", "a/b"], ["--name"]),
        ([], ["--run"]),
    ):
        code, _, err = script("validate.py", *arguments)
        assert code == parser.EXIT_ERROR
        assert err.count("error:") == 1
        assert all(word in err for word in words), err
    code, _, err = script("validate.py", "--run", run, "--data", shapes)
    assert code == parser.EXIT_OK
    assert "was trained on" in err
    (run / "options.yaml").write_text(options.replace(str(shapes), str(tmp_path / "moved")))
    code, _, err = script("validate.py", "--run", run)
    assert code == parser.EXIT_ERROR
    assert "--data" in err


def test_suspects_of_folds_are_read_by_exclude(train, shapes, resnet, tmp_path):
    folder = tmp_path / "folds"
    arguments = ("--model", resnet, "--data", shapes, "--max_steps", 2, "--folds", 2, "--output_dir", folder)
    assert train(*arguments).returncode == 0
    with np.load(folder / "out_of_fold.npz") as kept:
        assert kept["out_of_fold"].shape == (36, 3)
        assert kept["probes"].shape == (36, 3, 3)
    page = (folder / "report.html").read_text()
    assert "cross-validated" in page
    found = rows(folder / "suspects.csv")
    assert all(row["label"] != row["suggested"] for row in found)
    if found:
        again = train("--model", resnet, "--data", shapes, "--max_steps", 2, "--exclude", folder / "suspects.csv",
                      "--output_dir", tmp_path / "second")  # fmt: skip
        assert again.returncode == 0, again.stderr
        excluded = {row["path"] for row in rows(tmp_path / "second/exclude.csv")}
        assert {row["path"] for row in found} <= excluded


def test_what_a_reader_found(script, run, shapes, tmp_path, monkeypatch):
    """Another folder of the same name, a plain file among the runs, a fold without weights, a run by its home."""
    for parent in ("one", "two"):
        class_folders(tmp_path / parent / "photos", per_class=3)
    assert script("validate.py", "--run", run, "--data", tmp_path / "one/photos")[0] == parser.EXIT_OK
    assert script("validate.py", "--run", run, "--data", tmp_path / "one/photos")[0] == parser.EXIT_OK
    code, _, err = script("validate.py", "--run", run, "--data", tmp_path / "two/photos")
    assert code == parser.EXIT_ERROR
    assert "--name" in err
    (tmp_path / "notes.txt").write_text("no run")
    shutil.copytree(run, tmp_path / "bare")
    (tmp_path / "bare/model.safetensors").unlink()
    code, _, err = script("compare.py", run, tmp_path / "notes.txt", tmp_path / "bare")
    assert code == parser.EXIT_OK
    assert err.count("skipped") == 2
    monkeypatch.setenv("HOME", str(tmp_path))
    code, _, err = script("validate.py", "--run", f"~/{run.name}", "--name", "home")
    assert code == parser.EXIT_OK, err
    assert (run / "validation/home/metrics.json").exists()
    with np.load(run / "logits.npz") as kept:
        assert set(kept) == {"validation", "test"}


def test_a_backbone_is_no_classifier(script, tmp_path):
    import tiny

    folder = tiny.write("vit-base", tmp_path / "backbone")
    code, _, err = script("predict.py", "--run", folder, tmp_path)
    assert code == parser.EXIT_ERROR
    assert "Train it first" in err
