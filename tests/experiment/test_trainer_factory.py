"""The modes of fine-tuning, each through the whole script: what trains, what is kept, what is refused."""

import json
import signal

import peft
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

from imgcls.config import recipes
from imgcls.models import classifier, source

EMA = ("--ema", "0.9")


@pytest.fixture
def fit(train, resnet, shapes, tmp_path):
    """Train the tiny ResNet in a mode; returns the run folder."""

    def run(mode, *options, name=None):
        folder = tmp_path / (name or mode)
        done = train("--model", resnet, "--data", shapes, "--tune", mode, "--output_dir", folder, *options)
        assert done.returncode == 0, done.stderr
        return folder

    return run


def changed(run, resnet):
    """Names of the weights and statistics that differ from the checkpoint's, the head's left out."""
    before, after = load_file(resnet / "model.safetensors"), load_file(run / "model.safetensors")
    return {n for n, v in before.items() if "classifier" not in n and not torch.equal(v, after[n])}


def numbers(run):
    return json.loads((run / "metrics.json").read_text())


def test_head_leaves_the_backbone_and_its_statistics_unchanged(fit, resnet):
    run = fit("head", "--epochs", 3)
    assert changed(run, resnet) == set()
    assert numbers(run)["validation"]["accuracy"] > 0.6
    assert set(numbers(run)["selection"]["accuracy"]) == {"probe", "average", "fine-tuned"}


def test_probe_then_full_holds_statistics_and_trains_the_rest(fit, resnet):
    run = fit("probe_then_full", "--epochs", 2)
    moved = changed(run, resnet)
    statistics = {n for n in load_file(resnet / "model.safetensors") if "running_" in n or "num_batches" in n}
    assert not moved & statistics
    if numbers(run)["selection"]["kept"] != "probe":
        assert any("embedder" in n for n in moved)


@pytest.mark.nightly
@pytest.mark.parametrize(("lr", "kept"), [(1e-3, "fine-tuned"), (1e-9, "probe")])
def test_auto_on_a_large_set_starts_from_a_fresh_head_and_must_beat_the_probe(fit, monkeypatch, lr, kept):
    monkeypatch.setattr(recipes, "SMALL_DATASET", 10)
    found = numbers(fit("auto", "--epochs", 20, "--lr", lr))["selection"]
    assert found["kept"] == kept
    assert set(found["accuracy"]) == {"probe", "fine-tuned"}
    assert (found["accuracy"]["fine-tuned"] < 0.7) == (kept == "probe")  # an untrained head knows nothing


def test_full_has_no_probe_to_select(fit):
    assert numbers(fit("full", "--epochs", 1))["selection"] is None


def test_lora_saves_a_merged_model_and_its_adapter(fit, resnet, shapes, tmp_path):
    run = fit("lora", "--epochs", 2, "--lr", 5e-3)
    torch.manual_seed(0)
    base = classifier.build_classifier(source.resolve_model(str(resnet)), numbers(run)["classes"], image_px=288).network
    # in double precision, so that only what merging rounded shows
    adapted = peft.PeftModel.from_pretrained(base, str(run / "adapter")).eval().double()
    merged = AutoModelForImageClassification.from_pretrained(run).eval().double()
    pixels = torch.randn(2, 3, 96, 96, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(
            adapted(pixel_values=pixels).logits, merged(pixel_values=pixels).logits, atol=1e-5, rtol=0
        )
    assert not [n for n in load_file(run / "model.safetensors") if "lora" in n]


def test_auto_logs_its_trials_and_its_model_predicts_as_reported(fit, shapes):
    run = fit("auto", "--epochs", 1)
    found = numbers(run)
    options = (run / "options.yaml").read_text()
    assert "image_px: 288" in options or "image_px: 224" in options
    processor = AutoImageProcessor.from_pretrained(run)
    seen = processor(images=Image.new("RGB", (90, 60)), return_tensors="pt")["pixel_values"]
    assert f"image_px: {seen.shape[-1]}" in options
    predict = pipeline("image-classification", model=str(run))
    rows = [line.split(",") for line in (run / "predictions.csv").read_text().splitlines()[1:]]
    assert len(rows) == found["validation"]["images"]
    for path, _, _, predicted, confidence, _ in rows:
        best = predict(str(shapes / path))[0]
        assert best["label"] == predicted
        assert best["score"] == pytest.approx(float(confidence), abs=1e-4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--tune", "head", "--from_scratch", "--model", "resnet-18"), "--tune full with random weights"),
        (("--tune", "head", "--mixup", 0.2), "without --mixup"),
        (("--sampler", "balanced", "--class_weights", "balanced"), "count twice"),
        (("--drop_path", 0.1), "stochastic depth"),
    ],
)
def test_resolve_mode_refuses_impossible_modes(train, resnet, shapes, tmp_path, options, said):
    done = train("--model", resnet, "--data", shapes, "--output_dir", tmp_path / "run", *options)
    assert done.returncode == 1
    assert said in done.stderr
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_mixing_focal_loss_and_balanced_sampler_compose(fit):
    options = ("--mixup", 0.2, "--cutmix", 1, "--focal", 2, "--sampler", "balanced", "--label_smoothing_factor", 0.1)
    assert numbers(fit("full", "--epochs", 2, *options))["train"]["epochs"] == 2


def test_ema_is_what_is_evaluated_and_saved(fit):
    options = ("--max_steps", 6, "--eval_strategy", "steps", "--eval_steps", 3, "--save_strategy", "steps")
    plain, averaged = (fit("full", *options, "--save_steps", 3, *ema, name=f"run{len(ema)}") for ema in ((), EMA))
    raw, kept = (load_file(run / "model.safetensors") for run in (plain, averaged))
    assert any(not torch.equal(value, kept[name]) for name, value in raw.items())  # of the same trajectory
    history = [json.loads(line) for line in (averaged / "history.jsonl").read_text().splitlines()]
    evaluated = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
    assert numbers(averaged)["validation"]["loss"] == pytest.approx(evaluated[-1], rel=1e-4)


@pytest.mark.nightly
@pytest.mark.parametrize("options", [("--tune", "head"), ("--tune", "lora"), ("--tune", "full", *EMA)])
def test_a_killed_run_resumes_to_the_same_weights(staged, launch, resnet, shapes, tmp_path, options):
    def command(name):
        arguments = ["--model", resnet, "--data", shapes, *options, "--epochs", 3, "--batch_size", 8]
        return [*arguments, "--seed", 3, "--output_dir", tmp_path / name]

    killed = staged({"arguments": command("killed"), "kill_at_step": 6})  # 4 steps an epoch
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    for name in ("killed", "whole"):
        done = launch(*command(name))
        assert done.returncode == 0, done.stderr
    expected, found = (load_file(tmp_path / n / "model.safetensors") for n in ("whole", "killed"))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
