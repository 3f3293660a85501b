"""From a training to a repository of the Hub: nothing trained is lost, whatever happens to the push."""

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from commands import TESTS, TWO_PROCESSES
from loopback import LoopbackHub

from imgcls.config.training_options import TrainingOptions
from imgcls.errors import HubError, OptionError
from imgcls.experiment import hub_push
from imgcls.hub import repository

# Use of a pushed model by its name, from an empty cache.
USE = """
import json, sys
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline
from PIL import Image
name, *files = sys.argv[1:]
classify = pipeline("image-classification", model=name, top_k=None)
predictions = [{one["label"]: one["score"] for one in answer} for answer in classify(files)]
network, processor = AutoModelForImageClassification.from_pretrained(name), AutoImageProcessor.from_pretrained(name)
inputs = processor([Image.open(f).convert("RGB") for f in files], return_tensors="pt")
with torch.no_grad():
    probabilities = network(**inputs).logits.softmax(1)
both = [[answer[network.config.id2label[k]] for k in range(probabilities.shape[1])] for answer in predictions]
print(json.dumps({"pipeline": both, "model": probabilities.tolist(), "labels": network.config.id2label}))
"""


@pytest.fixture
def server():
    with LoopbackHub() as hub:
        hub.add_user("tester", "hf_write", "write")
        yield hub


@pytest.fixture
def env(server, tmp_path):
    return server.env(tmp_path / "home") | {"HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_write"}


@pytest.fixture
def command(resnet, shapes, tmp_path):
    """Arguments of a short training into tmp_path/NAME that ends with a push."""

    def make(name, *more):
        return {
            "arguments": ["--model", resnet, "--data", shapes, "--output_dir", tmp_path / name, "--tune", "full",
                          "--epochs", 2, "--push_to_hub", *more]
        }  # fmt: skip

    return make


def test_push_finished_run_uploads_the_model_that_was_evaluated(server, env, staged, command, shapes, tmp_path):
    done = staged(command("mine"), env=env)
    assert done.returncode == 0, done.stderr
    assert f"pushed to {server.url}/tester/mine" in done.stdout
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"} <= set(
        server.files("tester/mine")
    )
    assert not [name for name in server.files("tester/mine") if "checkpoint" in name or name.endswith((".pt", ".csv"))]

    rows = [row.split(",") for row in (tmp_path / "mine/predictions.csv").read_text().splitlines()[1:]]
    logits = np.load(tmp_path / "mine/logits.npz")["validation"]
    use = [sys.executable, "-c", USE, "tester/mine", *(str(shapes / row[0]) for row in rows)]
    fresh = env | {"HF_HOME": str(tmp_path / "another home")}
    fresh.pop("HF_TOKEN")
    done = subprocess.run(use, env=fresh, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(result["pipeline"], expected, atol=1e-4)
    np.testing.assert_allclose(result["model"], expected, atol=1e-4)
    assert list(result["labels"].values()) == ["circle", "cross", "square"]


def test_prepare_push_without_write_access_refuses_before_training(server, env, launch, command, tmp_path):
    arguments = command("refused")["arguments"]
    done = launch(*arguments, env=env | {"HF_TOKEN": "hf_wrong"})
    assert done.returncode == 1
    assert "Invalid token" in done.stderr.splitlines()[-1]
    assert "--hub_check off" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "refused").exists()


def test_prepare_push_refuses_on_all_ranks(server, env, launch, command, tmp_path):
    done = launch(*command("two")["arguments"], env=env | {"HF_TOKEN": "hf_wrong"}, launcher=TWO_PROCESSES)
    assert done.returncode == 1
    assert "[rank" not in done.stderr  # how a process begins its traceback
    assert done.stderr.count("Invalid token") == 2


@pytest.mark.nightly
def test_push_finished_run_that_fails_leaves_a_whole_run_to_push_later(server, env, staged, command, launch, tmp_path):
    server.fault(".*", ".*", 503)
    done = staged(command("later", "--hub_check", "off"), env=env)
    assert done.returncode == 1
    assert "accuracy" in done.stdout
    again = done.stderr.splitlines()[-1].split("Then: ")[1]
    assert again == f"python scripts/push.py --run {tmp_path / 'later'} --repo later"
    assert (tmp_path / "later/metrics.json").is_file()
    server.heal()
    script, *arguments = again.split()[1:]
    arguments += ["--space", "tester/page"]
    done = launch(*arguments, script=script, cwd=TESTS.parent, env=env)
    assert done.returncode == 0, done.stderr
    assert {"app.py", "requirements.txt", "imgcls/deploy/demo_app.py"} <= set(server.files("tester/page", "spaces"))
    assert b"https://huggingface.co/spaces/tester/page" in server.read("tester/later", "README.md")
    assert server.read("tester/later", "model.safetensors") == (tmp_path / "later/model.safetensors").read_bytes()


@pytest.mark.nightly
def test_push_every_save_callback_uploads_during_training(server, env, staged, command, tmp_path):
    every = ("--hub_strategy", "every_save", "--epochs", 4, "--hub_private_repo", "true")
    broken = command("broken", *every)
    done = staged(command("every", *every), env=env)
    assert done.returncode == 0, done.stderr
    titles = server.commits("tester/every")
    assert titles[1].startswith("In training: step ")
    assert titles[-1] == "Model trained by imgcls: every"
    assert server.is_private("tester/every")

    assert "still being trained" not in server.read("tester/every", "README.md").decode()

    server.fault("POST", "tester/broken/preupload", 403)
    done = staged(broken, env=env)
    assert "warning: push: Expected to push to tester/broken" in done.stderr  # logged during training
    assert done.returncode == 1  # and at the end
    assert (tmp_path / "broken/metrics.json").is_file()


def test_push_every_save_callback_continues_when_the_model_cannot_be_written(caplog):
    def full(folder):
        raise RuntimeError("No space left on device")

    push = hub_push.PushEverySaveCallback(repository.Repo("tester/x"), full)
    push.on_save(SimpleNamespace(should_save=True), SimpleNamespace(global_step=3, max_steps=9), None)
    push.on_train_end(None, None, None)
    assert "skipping step 3 of 9: No space left on device. Training continues" in caplog.text


def test_prepare_push_names_the_repository_after_the_run(resnet, shapes, train, monkeypatch, tmp_path):
    claims = []

    def refused(name, **options):
        claims.append((name, options["private"]))
        raise HubError("no")

    monkeypatch.setattr(repository, "claim_repository", refused)
    monkeypatch.chdir(tmp_path)
    assert train("--data", shapes, "--model", resnet, "--push_to_hub", "--hub_private_repo", "true").returncode == 1
    assert train("--data", shapes, "--model", resnet, "--push_to_hub", "--output_dir", "mine").returncode == 1
    assert claims == [(f"{shapes.name}-{resnet.name}", True), ("mine", False)]
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("options", [
    {"hub_strategy": "checkpoint"}, {"hub_strategy": "all_checkpoints"}, {"hub_revision": "x"},
    {"hub_always_push": True}, {"hub_check": "off", "hub_strategy": "every_save"},
])  # fmt: skip
def test_training_options_refuse_other_ways_to_push(options, tmp_path):
    with pytest.raises(OptionError):
        TrainingOptions(output_dir=str(tmp_path), push_to_hub=True, **options)
