"""Cross-validation and search, through the whole script: what is judged on what, what is kept, what goes on."""

import csv

import numpy as np
import pytest

from imgcls.experiment import run
from imgcls.storage.run_folder import RunFolder
from imgcls.training.trainer import ImageTrainer


def rows(file):
    with open(file, newline="") as text:
        return list(csv.DictReader(text))


@pytest.fixture
def command(resnet, shapes, tmp_path):
    """Arguments of a short training into tmp_path/run."""
    return ["--model", resnet, "--data", shapes, "--output_dir", tmp_path / "run", "--tune", "full", "--epochs", 2]


def test_cross_validate_evaluates_every_image_by_a_run_that_held_it_out(train, command, shapes, tmp_path):
    done = train(*command, "--folds", 3)
    assert done.returncode == 0, done.stderr
    run = RunFolder(tmp_path / "run")
    numbers = run.read_json("metrics.json")
    judged, found = numbers["cross_validation"], rows(run / "out_of_fold.csv")
    assert judged["folds"] == 3
    assert {r["path"] for r in found} == {p.relative_to(shapes).as_posix() for p in shapes.rglob("*.jpg")}
    assert judged["accuracy"] == pytest.approx(np.mean([r["correct"] == "1" for r in found]))
    with np.load(run / "out_of_fold.npz") as logits:
        predicted = logits["out_of_fold"].argmax(1)
    assert [numbers["classes"][i] for i in predicted] == [r["predicted"] for r in found]
    for k in (1, 2, 3):
        split = {r["path"]: r["split"] for r in rows(run / f"folds/{k}/split.csv")}
        assert {r["path"] for r in found if r["split"] == f"fold {k}"} == {p for p, s in split.items() if s == "test"}
        assert not (run / f"folds/{k}/model.safetensors").exists()
    assert (run / "model.safetensors").exists()
    assert "3 folds" in done.stdout
    assert "finished" in train(*command, "--folds", 3).stderr


@pytest.mark.nightly
def test_cross_validate_resumes(train, command, monkeypatch):
    kept = run.weight_selection.select_weights

    def stop_in_the_second(trainer, *wanted):
        if trainer.run.path.name == "2":
            raise KeyboardInterrupt
        return kept(trainer, *wanted)

    monkeypatch.setattr(run.weight_selection, "select_weights", stop_in_the_second)
    assert train(*command, "--folds", 2).returncode == 130
    monkeypatch.setattr(run.weight_selection, "select_weights", kept)
    other = train(*command, "--folds", 2, "--lr", 0.1)
    assert other.returncode == 1  # the first fold is not thrown away by another command
    again = train(*command, "--folds", 2)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("is finished: nothing to train") == 1


@pytest.mark.nightly
def test_run_search_resumes_and_trains_with_the_best(train, command, tmp_path, monkeypatch):
    arguments = [*command, "--weight_decay", 0.03, "--search", 4]
    objective, asked = ImageTrainer._report_to_hp_search, []

    def stopped(self, trial, step, metrics):
        if trial is not None:
            asked.append(dict(trial.params))
            if len(asked) == 3:  # in the second trial: 2 evaluations each
                raise KeyboardInterrupt
        objective(self, trial, step, metrics)

    monkeypatch.setattr(ImageTrainer, "_report_to_hp_search", stopped)
    assert train(*arguments).returncode == 130
    refused = train(*arguments[:-1], 3)
    assert refused.returncode == 1  # nothing that was found is thrown away by another command
    assert "search 4 -> 3" in refused.stderr
    done = train(*arguments)
    assert done.returncode == 0, done.stderr
    run = RunFolder(tmp_path / "run")
    trials = run.read_json("search.json")
    assert len(trials) == 4
    assert trials[0]["layer_decay"] == 1.0  # the recipe itself
    assert len({t["learning_rate"] for t in trials}) == 4  # none twice
    best = min((t for t in trials if not t["cut_short"]), key=lambda t: t["loss"])
    options = run.read_options()
    assert options["learning_rate"] == best["learning_rate"]
    assert options["layer_decay"] == best["layer_decay"]
    assert options["weight_decay"] == 0.03  # given, so not searched
    assert "weight_decay" not in best
    assert "finished" in train(*arguments).stderr
    assert train(*arguments[:-1], 5).returncode == 1
    again = train("--config", run / "options.yaml", "--output_dir", tmp_path / "again", "--max_steps", 1)
    assert again.returncode == 0, again.stderr


def test_train_leaves_other_folders_alone(train, command, tmp_path):
    mine = tmp_path / "run/folds/fold1.csv"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    refused = train(*command)
    assert refused.returncode == 1
    assert "folds" in refused.stderr
    assert mine.read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--folds", 1], "--folds of 2 or more"),
        (["--folds", 3, "--search", 2], "--folds without --search"),
        (["--folds", 3, "--model", "auto"], "--folds without --model auto"),
        (["--search", 2, "--lr", 1e-3, "--weight_decay", 0.1, "--layer_decay", 1], "left to --search"),
        (["--feature_crops", 3], "--tune head"),
        (["--feature_crops", 0], "--feature_crops"),
        (["--model", "auto", "--from_scratch"], "auto"),
    ],
)
def test_check_options_refuses_contradictions(train, command, options, words):
    done = train(*command, *options)
    assert done.returncode == 1
    assert words in done.stderr


def test_train_measures_models_for_auto(train, shapes, resnet, tmp_path, monkeypatch):
    run = RunFolder(tmp_path / "run")
    arguments = ["--model", "auto", "--data", shapes, "--tune", "head", "--epochs", 2, "--output_dir", run.path]
    monkeypatch.setattr("imgcls.probing.model_choice.CHECKPOINTS", {str(resnet): None})
    done = train(*arguments)
    assert done.returncode == 0, done.stderr
    assert f"take {resnet}" in done.stderr
    assert run.read_json("metrics.json")["model"] == str(resnet)
    again = train(*arguments)
    assert "finished" in again.stderr
    assert "take" not in again.stderr
