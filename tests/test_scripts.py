"""scripts/train.py as a user runs it."""

import csv
import json
import math
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tiny
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from commands import TESTS, TWO_PROCESSES
from drawings import class_folders, photo
from loopback import LoopbackHub
from PIL import Image
from safetensors.torch import load_file
from transformers import pipeline

from imgcls.models import classifier, source


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def assert_pipeline_agrees(run, data, px=None):
    """`pipeline` on the saved folder answers every evaluated image as predictions.csv does."""
    predict = pipeline("image-classification", model=str(run), top_k=1)
    found = rows(run / "predictions.csv")
    assert found
    for row in found:
        (best,) = predict(str(data / row["path"]))
        assert best["label"] == row["predicted"]
        assert best["score"] == pytest.approx(float(row["confidence"]), abs=1e-4)
    if px:
        assert predict.image_processor(photo(300, 200, 0), return_tensors="pt")["pixel_values"].shape[-1] == px


@pytest.mark.nightly
def test_train_takes_all_names_from_the_hub_and_pipeline_predicts_the_same(staged, shapes, tmp_path):
    def command(name, px):
        size = ["--image_px", px] if px else []
        run = tmp_path / f"{name}-{px}"
        return {"arguments": ["--model", name, "--data", shapes, "--max_steps", 2, "--output_dir", run, *size]}

    sizes = (None, 96)
    with LoopbackHub() as hub:
        for name, hub_id in tiny.HUB_IDS.items():
            hub.add_model(hub_id, tiny.write(name, tmp_path / "hub" / name))
        env = {k: v for k, v in hub.env(tmp_path / "home").items() if k != "HF_HUB_OFFLINE"}
        done = staged(*(command(name, px) for name in tiny.HUB_IDS for px in sizes), env=env)
    assert done.returncode == 0, done.stderr
    for name in tiny.HUB_IDS:
        for px in sizes:
            run = tmp_path / f"{name}-{px}"
            assert json.loads((run / "metrics.json").read_text())["initialised"] == "pretrained"
            assert_pipeline_agrees(run, shapes, px)


def test_train_writes_every_file_of_the_run_folder(train, shapes, resnet, tmp_path):
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


def test_train_continues_from_a_run_with_a_new_class(train, shapes, resnet, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert train("--model", resnet, "--data", shapes, "--max_steps", 2, "--output_dir", first).returncode == 0
    more = class_folders(tmp_path / "more", classes=("bars", "circle", "cross", "square"), per_class=4)
    built = classifier.build_classifier(source.resolve_model(str(first)), sorted(p.name for p in more.iterdir()))
    before = load_file(first / "model.safetensors")
    assert torch.equal(built.network.state_dict()["classifier.1.weight"][1:], before["classifier.1.weight"])
    done = train("--model", first, "--data", more, "--max_steps", 2, "--output_dir", second)
    assert done.returncode == 0, done.stderr
    assert "3 known classes kept" in done.stderr


def resumable(shapes, resnet, run, workers=0):
    arguments = ["--model", resnet, "--data", shapes, "--epochs", 4, "--batch_size", 4, "--save_strategy", "steps"]
    arguments += ["--eval_strategy", "steps", "--save_steps", 3, "--eval_steps", 3, "--seed", 3]
    return [*arguments, "--dataloader_num_workers", workers, "--output_dir", run]


@pytest.fixture(scope="module")
def uninterrupted(shapes, resnet, tmp_path_factory, launch):
    run = tmp_path_factory.mktemp("whole") / "run"
    done = launch(*resumable(shapes, resnet, run))
    assert done.returncode == 0, done.stderr
    return run


@pytest.mark.parametrize(
    ("moment", "workers"),
    [
        ({"kill_in_checkpoint": 6}, 0),  # 8 steps per epoch
        pytest.param({"kill_in_checkpoint": 6}, 2, marks=pytest.mark.nightly),
        pytest.param({"kill_at_step": 5}, 0, marks=pytest.mark.nightly),
        pytest.param({"kill_at_step": 5}, 2, marks=pytest.mark.nightly),
    ],
)
def test_train_resumes_a_killed_run_to_the_same_weights(
    launch, staged, shapes, resnet, uninterrupted, tmp_path, moment, workers
):
    run = tmp_path / "run"
    command = resumable(shapes, resnet, run, workers)
    killed = staged({"arguments": command, **moment})
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    whole = [p.name for p in run.glob("checkpoints/checkpoint-*")]
    assert whole == ["checkpoint-3"]
    assert (run / "checkpoints/.partial/checkpoint-6/optimizer.pt").exists() == ("kill_in_checkpoint" in moment)
    again = launch(*command)
    assert again.returncode == 0, again.stderr
    assert "resuming from step 3 of" in again.stderr
    expected, found = load_file(uninterrupted / "model.safetensors"), load_file(run / "model.safetensors")
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert (uninterrupted / "predictions.csv").read_text() == (run / "predictions.csv").read_text()


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["vit-large", "vit-small-msn"])
def test_train_resumes_a_killed_transformer_to_the_same_weights_and_keeps_its_best(staged, shapes, tmp_path, name):
    checkpoint = tiny.write(name, tmp_path / "checkpoint")

    def command(run, **stage):
        return {"arguments": [*resumable(shapes, checkpoint, tmp_path / run), "--tune", "full", "--lr", 1e-3], **stage}

    assert staged(command("whole")).returncode == 0
    assert staged(command("killed", kill_at_step=5)).returncode == -signal.SIGKILL
    again = staged(command("killed"))
    assert again.returncode == 0, again.stderr
    expected, found = (load_file(tmp_path / run / "model.safetensors") for run in ("whole", "killed"))
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    history = [json.loads(line) for line in (tmp_path / "whole/history.jsonl").read_text().splitlines()]
    kept = json.loads((tmp_path / "whole/metrics.json").read_text())["validation"]["loss"]
    assert any(kept == pytest.approx(entry.get("eval_loss"), abs=1e-5) for entry in history)  # those of a checkpoint


FAMILIES = ("vit-base", "vit-small-msn", "resnet-18", "efficientnet-b0", "mobilenetv3-small")


@pytest.mark.nightly
def test_train_takes_the_same_step_however_the_batch_is_divided(staged, shapes, tmp_path):
    cuts = {"whole": (16, 1), "accumulated": (4, 4), "processes": (8, 1)}
    options = [
        "--data",
        shapes,
        "--max_steps",
        2,
        "--max_grad_norm",
        0,
        "--class_weights",
        "balanced",
        "--tune",
        "full",
    ]

    def command(name, cut):
        (folder := tmp_path / f"{name}-{cut}").mkdir()
        batch, accumulation = cuts[cut]
        split = ["--batch_size", batch, "--gradient_accumulation_steps", accumulation]
        arguments = ["--model", tmp_path / name, "--output_dir", folder / "run", *split, *options]
        return {"arguments": arguments, "keep": folder}

    for name in FAMILIES:
        tiny.write(name, tmp_path / name)
    alone = staged(*(command(name, cut) for name in FAMILIES for cut in ("whole", "accumulated")))
    assert alone.returncode == 0, alone.stderr
    two = staged(*(command(name, "processes") for name in FAMILIES), launcher=TWO_PROCESSES)
    assert two.returncode == 0, two.stderr
    for name in FAMILIES:
        gradients = {cut: torch.load(tmp_path / f"{name}-{cut}" / "grad.pt") for cut in cuts}
        flat = {cut: torch.cat([g.flatten() for g in found.values()]) for cut, found in gradients.items()}
        for cut in ("accumulated", "processes"):
            difference = (flat[cut] - flat["whole"]).norm() / flat["whole"].norm()
            print(f"{name:<20} {cut:<12} {difference:.1e}")
            assert difference < 1e-10, (name, cut)
        first, second = (torch.load(tmp_path / f"{name}-processes/weights{rank}.pt") for rank in (0, 1))
        assert all(torch.equal(value, second[key]) for key, value in first.items()), name


def test_train_in_two_processes_evaluates_each_image_once(train, launch, shapes, resnet, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    base = ["--model", resnet, "--data", shapes, "--max_steps", 3, "--batch_size", 4]
    assert train(*base, "--output_dir", one).returncode == 0
    done = launch(*base, "--output_dir", two, launcher=TWO_PROCESSES)
    assert done.returncode == 0, done.stderr
    paths = [r["path"] for r in rows(two / "predictions.csv")]
    assert paths == [r["path"] for r in rows(one / "predictions.csv")]
    assert len(set(paths)) == len(paths)
    assert done.stdout.count("written to") == 1  # only rank 0 prints
    assert "unused parameters" not in done.stderr


@pytest.mark.nightly
def test_train_on_two_machines_makes_one_run(train, launch, shapes, resnet, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    base = ["--model", resnet, "--data", shapes, "--max_steps", 4, "--tune", "full"]

    def node(rank):
        torchrun = (sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1",
                    "--node_rank", str(rank), "--master_addr", "127.0.0.1", "--master_port", str(port))  # fmt: skip
        return launch(*base, "--batch_size", 4, "--output_dir", tmp_path / "two", launcher=torchrun)

    with ThreadPoolExecutor() as pool:
        done = list(pool.map(node, range(2)))
    assert [d.returncode for d in done] == [0, 0], done[0].stderr
    assert [d.stdout.count("written to") for d in done] == [1, 0]
    made = json.loads((tmp_path / "two/metrics.json").read_text())["made"]
    assert made["command"].startswith("torchrun --nnodes 2 --nproc_per_node 1 scripts/train.py --model")
    assert train(*base, "--batch_size", 8, "--output_dir", tmp_path / "one").returncode == 0
    two, one = (load_file(tmp_path / name / "model.safetensors") for name in ("two", "one"))
    for name, value in one.items():
        if "running" not in name and "num_batches" not in name:  # statistics of the first machine's own images
            torch.testing.assert_close(two[name], value, atol=2e-3, rtol=0.1)


@pytest.mark.nightly
def test_train_with_fsdp_learns_the_same_through_a_kill(staged, shapes, tmp_path):
    checkpoint = tiny.write("vit-large", tmp_path / "checkpoint")
    # what `accelerate launch` makes of the file; it would start several processes on GPUs only
    config = ["--config_file", str(TESTS.parent / "accelerate_configs" / "fsdp.yaml"), "scripts/train.py"]
    env = prepare_multi_gpu_env(_validate_launch_command(launch_command_parser().parse_args(config))[0])

    def command(name, **stage):
        arguments = ["--model", checkpoint, "--data", shapes, "--epochs", 3, "--batch_size", 4, "--tune"]
        return {"arguments": [*arguments, "probe_then_full", "--output_dir", tmp_path / name], **stage}

    killed = staged(command("spread", fsdp=True, kill_at_step=6), launcher=TWO_PROCESSES, env=env)
    assert killed.returncode != 0
    parts = tmp_path / "spread/checkpoints/checkpoint-4/pytorch_model_fsdp_0"
    assert {part.name for part in parts.glob("*.distcp")} == {"__0_0.distcp", "__1_0.distcp"}
    done = staged(command("spread", fsdp=True), launcher=TWO_PROCESSES, env=env)
    assert done.returncode == 0, done.stderr
    assert "resuming from step" in done.stderr
    assert staged(command("copied"), launcher=TWO_PROCESSES).returncode == 0
    spread, copied = (load_file(tmp_path / name / "model.safetensors") for name in ("spread", "copied"))
    assert spread.keys() == copied.keys()
    for name, value in copied.items():
        torch.testing.assert_close(spread[name], value, atol=1e-4, rtol=1e-3)


def test_train_demo_needs_neither_data_nor_network(launch, tmp_path):
    done = launch("--model", "resnet-18", "--max_steps", 2, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "RANDOM WEIGHTS" in done.stderr
    assert json.loads((tmp_path / "runs/digits-resnet-18/metrics.json").read_text())["initialised"] == "random"


def test_train_lists_and_excludes_bad_images(train, resnet, tmp_path):
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
        (["--model", "./nowhere"], 1, ["./nowhere", "does not exist"]),
        (["--model", "vit-base", "--from_scratch", "--image_px", "100"], 1, ["100", "96 or 112"]),
        (["--lerning_rate", "1"], 2, ["--lerning_rate", "--learning_rate"]),
        (["--lr", "fast"], 2, ["fast"]),
        (["--data", __file__], 1, ["test_scripts.py", "folder"]),
        (["--output_dir", __file__], 1, ["test_scripts.py", "output_dir"]),
        (["--metric_for_best_model", "f1"], 1, ["macro_f1"]),
        (["--epochs", "0"], 1, ["--epochs"]),
        (["--config", "nowhere.yaml"], 2, ["nowhere.yaml"]),
    ],
)
def test_train_reports_mistakes_in_one_line(train, tmp_path, monkeypatch, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    done = train(*arguments)
    assert done.returncode == code
    lines = [line for line in done.stderr.splitlines() if "error:" in line]
    assert len(lines) == 1, done.stderr
    assert all(word in lines[0] for word in words), lines
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").rglob("*.json"))


def test_train_help_is_short_and_help_all_complete(train):
    short, long = train("--help").stdout, train("--help_all").stdout
    assert "--val_fraction" in short
    assert "--lr" in short
    assert "--deepspeed" not in short
    assert "--deepspeed" in long
    assert math.isclose(short.count("\n"), 75, abs_tol=45)
