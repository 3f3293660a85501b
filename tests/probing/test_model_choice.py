"""Which model is recommended: by rule for each wish, and by measurement."""

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
from imgcls.probing.model_rules import ModelRequest, recommend_by_rules

RECOMMEND = TRAIN.with_name("recommend.py")


@pytest.mark.parametrize(
    ("wish", "images", "first"),
    [
        (ModelRequest("accuracy", "medical", "gpu"), 20_000, "vit-large"),
        (ModelRequest("accuracy", "general", "gpu"), 20_000, "vit-large"),
        (ModelRequest("training_speed", "general", "cpu"), 300, "resnet-18"),
        (ModelRequest("size", "general", "cpu"), 300, "mobilenetv3-small"),
        (ModelRequest("edge", "realtime", "edge"), 5_000, "mobilenetv3-small"),
        (ModelRequest("accuracy", "product", "cpu"), 5_000, "efficientnet-b0"),
        (ModelRequest("training_speed", "realtime", "gpu"), 300, "resnet-18"),
    ],
)
def test_the_guide_s_choices(wish, images, first):
    found = recommend_by_rules(wish, images)
    assert found[0].model == first
    assert found[0].reasons
    assert len(found) == 8


def test_no_large_transformer_without_a_gpu():
    assert [a.model for a in recommend_by_rules(ModelRequest("accuracy", "medical", "cpu"), 300)][-1] == "vit-large"


def test_medicine_gets_higher_resolution():
    assert {a.image_px for a in recommend_by_rules(ModelRequest(use_case="medical"), 300)} == {384}


def measured(name, accuracy, latency=10.0, megabytes=10.0, speed=100.0, n=200):
    correct = np.arange(n) < round(accuracy * n)
    return MeasuredModel(name, accuracy, (0, 1), megabytes, speed, 100.0, latency, 100.0, 1.0, correct)


@pytest.mark.parametrize(
    ("priority", "taken"),
    [("accuracy", "quick"), ("edge", "quick"), ("size", "small"), ("training_speed", "speedy")],
)
def test_the_pick_is_cheap_among_those_good_enough(priority, taken):
    models = [
        measured("best", 0.90, latency=50, megabytes=300, speed=5),
        measured("quick", 0.895, latency=5, megabytes=30),
        measured("small", 0.86, latency=9, megabytes=3),
        measured("speedy", 0.87, latency=9, speed=900),
        measured("poor", 0.50, latency=0.1, megabytes=0.1, speed=9_000),
    ]
    assert pick_model(models, priority).model == taken


def test_a_clear_lead_in_accuracy_wins():
    models = [measured("best", 0.90, latency=50), measured("quick", 0.85, latency=5)]
    assert pick_model(models, "accuracy").model == "best"


def test_the_network_that_is_timed_is_where_its_images_go(monkeypatch):
    train, validation = (
        Split(datasets.Dataset.from_dict({"label": [i % 2 for i in range(count)]}), [""] * count, [""] * count, [])
        for count in (9, 2)
    )
    splits = DatasetSplits(["a", "b"], train, validation)
    timed = []

    def pace(built, _, device):
        timed.append(next(built.network.parameters()).device)
        return StepTime(1, 0.1, 0.1)

    monkeypatch.setattr(model_choice, "_pace", pace)
    model_choice.recommendation_text(model_rules.Recommendation("resnet-18"), splits, torch.device("meta"))
    assert timed == [torch.device("meta")]


def test_measured_on_the_images(launch, resnet, shapes, tmp_path):
    missing = str(tmp_path / "nowhere/model")
    done = launch("--data", shapes, "--json", "--measure", resnet, missing, script=RECOMMEND)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["pick"] == str(resnet)
    (row,) = found["models"]
    low, high = row["accuracy_ci95"]
    assert low <= row["accuracy"] <= high
    assert min(row["latency_ms"], row["training_memory_mb"], row["train_images_per_second"]) > 0
    assert "is left out" in done.stderr


def test_by_rule_with_reasons_and_minutes(launch, shapes):
    done = launch("--data", shapes, "--priority", "size", script=RECOMMEND)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split()[:2] == ["model", "image_px"]
    assert lines[1].startswith("mobilenetv3-small")
    assert "    size comes first" in lines
    assert lines[-1].startswith("take mobilenetv3-small:  python scripts/train.py --model mobilenetv3-small")


def test_rubbish_is_refused_in_a_line(launch, tmp_path):
    done = launch("--data", tmp_path, script=RECOMMEND)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert launch("--priority", "beauty", script=RECOMMEND).returncode == 2


def test_rules_name_known_models():
    lists = (
        *model_rules.BY_PRIORITY.values(),
        *model_rules.BY_USE_CASE.values(),
        *model_rules.BY_SIZE.values(),
    )
    assert {name for names in lists for name in names} <= set(model_choice.CHECKPOINTS)
