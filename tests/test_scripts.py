"""scripts/train.py as a user runs it."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tiny
import torch
from conftest import TRAIN
from drawings import class_folders, photo
from loopback import LoopbackHub
from PIL import Image
from safetensors.torch import load_file
from transformers import pipeline

from imgcls import model, source


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return class_folders(tmp_path_factory.mktemp("data") / "shapes", per_class=12)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    return tiny.write("resnet-18", tmp_path_factory.mktemp("resnet"))


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("px", [None, 96])
@pytest.mark.parametrize("name", ["vit-base", "vit-small-msn", "resnet-18", "resnet-50", "efficientnet-b0",
                                  "mobilenetv3-small"])  # fmt: skip
def test_pipeline_gives_the_predictions_of_the_run(train, shapes, tmp_path, name, px):
    checkpoint = tiny.write(name, tmp_path / "checkpoint")
    size = ["--image_px", px] if px else []
    run = tmp_path / "run"
    done = train("--model", checkpoint, "--data", shapes, "--max_steps", 2, "--output_dir", run, *size)
    assert done.returncode == 0, done.stderr
    predict = pipeline("image-classification", model=str(run), top_k=1)
    found = rows(run / "predictions.csv")
    assert found
    for row in found:
        (best,) = predict(str(shapes / row["path"]))
        assert best["label"] == row["predicted"]
        assert best["score"] == pytest.approx(float(row["confidence"]), abs=1e-4)
    if px:
        assert predict.image_processor(photo(300, 200, 0), return_tensors="pt")["pixel_values"].shape[-1] == px


def test_a_run_folder_holds_what_it_promises(train, shapes, resnet, tmp_path):
    run = tmp_path / "run"
    arguments = ("--model", resnet, "--data", shapes, "--epochs", 2, "--test_fraction", 0.2, "--output_dir", run)
    done = train(*arguments)
    assert done.returncode == 0, done.stderr
    numbers = json.loads((run / "metrics.json").read_text())
    assert numbers["initialised"] == "pretrained"
    assert numbers["classes"] == ["circle", "cross", "square"]
    split = rows(run / "split.csv")
    assert len(split) == 36
    assert {r["path"] for r in split} == {p.relative_to(shapes).as_posix() for p in shapes.rglob("*.jpg")}
    logits = np.load(run / "logits.npz")
    found = rows(run / "predictions.csv")
    for part in ("validation", "test"):
        mine = [r for r in found if r["split"] == part]
        assert len(mine) == numbers[part]["images"] == len(logits[part])
        assert numbers[part]["accuracy"] == np.mean([r["correct"] == "1" for r in mine])
    assert "loss" in (run / "history.jsonl").read_text()
    assert not list(run.glob(".*"))
    again = train(*arguments)
    assert again.returncode == 0, again.stderr
    assert "finished" in again.stderr
    assert again.stdout == done.stdout
    other = train(*arguments, "--lr", 0.123)
    assert other.returncode == 1
    assert "learning_rate" in other.stderr
    assert "Traceback" not in other.stderr
    config = train("--config", run / "options.yaml", "--output_dir", run)
    assert config.returncode == 0, config.stderr
    assert "finished" in config.stderr


def test_a_run_can_be_gone_on_from_with_a_new_class(train, shapes, resnet, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert train("--model", resnet, "--data", shapes, "--max_steps", 2, "--output_dir", first).returncode == 0
    more = class_folders(tmp_path / "more", classes=("bars", "circle", "cross", "square"), per_class=4)
    built = model.build(source.locate(str(first)), sorted(p.name for p in more.iterdir()))
    before = load_file(first / "model.safetensors")
    assert torch.equal(built.network.state_dict()["classifier.1.weight"][1:], before["classifier.1.weight"])
    done = train("--model", first, "--data", more, "--max_steps", 2, "--output_dir", second)
    assert done.returncode == 0, done.stderr
    assert "3 known classes kept" in done.stderr


def resumable(shapes, resnet, run, workers):
    arguments = ["--model", resnet, "--data", shapes, "--epochs", 4, "--batch_size", 4, "--dataloader_num_workers"]
    arguments += [workers, "--save_strategy", "steps", "--eval_strategy", "steps", "--save_steps", 3, "--eval_steps", 3]
    return [*map(str, arguments), "--seed", "3", "--output_dir", str(run)]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_run_goes_on_to_the_same_weights(train, shapes, resnet, tmp_path, workers):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = train(*resumable(shapes, resnet, whole, workers))
    assert done.returncode == 0, done.stderr
    command = [sys.executable, str(TRAIN), *resumable(shapes, resnet, killed, workers)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list(killed.glob("checkpoints/checkpoint-*")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "metrics.json").exists()
    (killed / "checkpoints" / ".partial" / "checkpoint-9999").mkdir(parents=True)  # half a checkpoint is no checkpoint
    again = train(*resumable(shapes, resnet, killed, workers))
    assert again.returncode == 0, again.stderr
    assert "going on from step" in again.stderr
    expected, found = load_file(whole / "model.safetensors"), load_file(killed / "model.safetensors")
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert (whole / "predictions.csv").read_text() == (killed / "predictions.csv").read_text()


def test_two_processes_evaluate_each_image_once(train, shapes, resnet, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    base = ["--model", resnet, "--data", shapes, "--max_steps", 3, "--batch_size", 4]
    assert train(*base, "--output_dir", one).returncode == 0
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29517")
    done = train(*base, "--output_dir", two, launcher=torchrun)
    assert done.returncode == 0, done.stderr
    paths = [r["path"] for r in rows(two / "predictions.csv")]
    assert paths == [r["path"] for r in rows(one / "predictions.csv")]
    assert len(set(paths)) == len(paths)
    assert done.stdout.count("weakest classes") == 1  # only rank 0 prints
    assert "unused parameters" not in done.stderr


def test_the_demo_needs_neither_data_nor_network(train, tmp_path):
    done = train("--model", "resnet-18", "--max_steps", 2, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "RANDOM WEIGHTS" in done.stderr
    assert json.loads((tmp_path / "runs/digits-resnet-18/metrics.json").read_text())["initialised"] == "random"


def test_a_hub_that_never_answers_is_noticed_within_seconds(shapes, tmp_path):
    with LoopbackHub(stall=True) as hub:
        script = (
            "import time; from imgcls import source; start = time.time()\n"
            "try: source.fetch(source.locate('resnet-50'))\n"
            "except source.HubUnreachable as error: print(time.time() - start, error)"
        )
        env = {k: v for k, v in hub.env(tmp_path).items() if k != "HF_HUB_OFFLINE"}
        done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=120)
    seconds, message = done.stdout.split(" ", 1)
    assert float(seconds) < 6
    assert all(word in message for word in ("microsoft/resnet-50", "hf download", "local model folder", "from_scratch"))


def test_a_name_is_fetched_from_the_hub(train, shapes, tmp_path):
    with LoopbackHub() as hub:
        hub.add_model("microsoft/resnet-18", tiny.write("resnet-18", tmp_path / "checkpoint"))
        env = {k: v for k, v in hub.env(tmp_path / "home").items() if k != "HF_HUB_OFFLINE"}
        run = tmp_path / "run"
        done = train("--model", "resnet-18", "--data", shapes, "--max_steps", 2, "--output_dir", run, env=env)
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "metrics.json").read_text())["initialised"] == "pretrained"


def test_bad_images_are_listed_and_left_out(train, resnet, tmp_path):
    data = class_folders(tmp_path / "data", per_class=6)
    whole = (data / "circle/circle_000.jpg").read_bytes()
    (data / "circle/cut.jpg").write_bytes(whole[: len(whole) // 2])
    (data / "cross/note.jpg").write_text("no picture")
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(data / "square/clear.png")
    run = tmp_path / "run"
    done = train("--model", resnet, "--data", data, "--max_steps", 2, "--output_dir", run)
    assert done.returncode == 0, done.stderr
    assert [r["path"] for r in rows(run / "exclude.csv")] == ["circle/cut.jpg", "cross/note.jpg"]
    assert len(rows(run / "split.csv")) == 19
    refused = train("--model", resnet, "--data", data, "--bad_images", "error", "--output_dir", tmp_path / "other")
    assert refused.returncode == 1
    assert "cut.jpg" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--data", "nowhere"], 1, ["nowhere", "does not exist"]),
        (["--val_fraction", "1.5"], 1, ["val_fraction", "1.5"]),
        (["--model", "resnet50"], 1, ["resnet50", "resnet-50", "resnet-101", "resnet-18"]),
        (["--lerning_rate", "1"], 2, ["--lerning_rate", "--learning_rate"]),
        (["--lr", "fast"], 2, ["fast"]),
        (["--data", __file__], 1, ["test_scripts.py", "folder"]),
        (["--output_dir", __file__], 1, ["test_scripts.py", "output_dir"]),
        (["--metric_for_best_model", "f1"], 1, ["macro_f1"]),
        (["--epochs", "0"], 1, ["--epochs"]),
        (["--config", "nowhere.yaml"], 2, ["nowhere.yaml"]),
    ],
)
def test_mistakes_are_one_line(train, tmp_path, arguments, code, words):
    done = train(*arguments, cwd=tmp_path)
    assert done.returncode == code
    lines = [line for line in done.stderr.splitlines() if "error:" in line]
    assert len(lines) == 1, done.stderr
    assert all(word in lines[0] for word in words), lines
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").rglob("*.json"))


def test_the_help_is_short_and_the_long_one_whole(train):
    short, long = train("--help").stdout, train("--help_all").stdout
    assert "--val_fraction" in short
    assert "--lr" in short
    assert "--deepspeed" not in short
    assert "--deepspeed" in long
    assert math.isclose(short.count("\n"), 75, abs_tol=45)
