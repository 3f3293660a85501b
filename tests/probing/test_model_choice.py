"""Recommendations by the script, and the pick among measured models."""

import json

import datasets
import numpy as np
import pytest
import torch
from commands import TRAIN

from imgcls.data.splits import DatasetSplits, Split
from imgcls.models.step_timing import StepTime
from imgcls.probing import model_choice, model_rules
from imgcls.probing.model_choice import MeasuredModel, pick_model

RECOMMEND = TRAIN.with_name("recommend.py")


def measured(name, accuracy, latency=10.0, megabytes=10.0, speed=100.0, n=200):
    correct = np.arange(n) < round(accuracy * n)
    return MeasuredModel(name, accuracy, (0, 1), megabytes, speed, 100.0, latency, 100.0, 1.0, correct)


@pytest.mark.parametrize(
    ("priority", "picked"),
    [("accuracy", "quick"), ("edge", "quick"), ("size", "small"), ("training_speed", "speedy")],
)
def test_pick_model_takes_the_cheapest_of_those_accurate_enough(priority, picked):
    models = [
        measured("best", 0.90, latency=50, megabytes=300, speed=5),
        measured("quick", 0.895, latency=5, megabytes=30),
        measured("small", 0.86, latency=9, megabytes=3),
        measured("speedy", 0.87, latency=9, speed=900),
        measured("poor", 0.50, latency=0.1, megabytes=0.1, speed=9_000),
    ]
    assert pick_model(models, priority).model == picked


def test_pick_model_takes_a_significantly_more_accurate_model():
    models = [measured("best", 0.90, latency=50), measured("quick", 0.85, latency=5)]
    assert pick_model(models, "accuracy").model == "best"


def test_training_plan_times_the_network_on_the_device(monkeypatch):
    train, validation = (
        Split(datasets.Dataset.from_dict({"label": [i % 2 for i in range(count)]}), [""] * count, [""] * count, [])
        for count in (9, 2)
    )
    splits = DatasetSplits(["a", "b"], train, validation)
    timed = []

    def time_step(built, _, device):
        timed.append(next(built.network.parameters()).device)
        return StepTime(1, 0.1, 0.1)

    monkeypatch.setattr(model_choice, "_time_step", time_step)
    model_choice.training_plan(model_rules.Recommendation("resnet-18"), splits, torch.device("meta"))
    assert timed == [torch.device("meta")]


def test_recommend_measures_models_on_the_images(launch, resnet, shapes, tmp_path):
    missing = str(tmp_path / "nowhere/model")
    done = launch("--data", shapes, "--json", "--measure", resnet, missing, script=RECOMMEND)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert results["pick"] == str(resnet)
    (row,) = results["models"]
    low, high = row["accuracy_ci95"]
    assert low <= row["accuracy"] <= high
    assert min(row["latency_ms"], row["training_memory_mb"], row["train_images_per_second"]) > 0
    assert "is skipped" in done.stderr


@pytest.mark.nightly
def test_recommend_by_rules_gives_reasons_and_minutes(launch, shapes):
    done = launch("--data", shapes, "--priority", "size", script=RECOMMEND)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split()[:2] == ["model", "image_px"]
    assert lines[1].startswith("mobilenetv3-small")
    assert "    size comes first" in lines
    assert lines[-1].startswith("take mobilenetv3-small:  python scripts/train.py --model mobilenetv3-small")


def test_recommend_refuses_wrong_input_in_one_line(launch, tmp_path):
    done = launch("--data", tmp_path, script=RECOMMEND)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert launch("--priority", "beauty", script=RECOMMEND).returncode == 2
