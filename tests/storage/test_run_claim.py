"""Which run a folder belongs to, and what a new run removes."""

import os

import numpy as np
import pytest

from imgcls.errors import RunError
from imgcls.storage import run_claim, run_folder
from imgcls.storage.run_folder import RunFolder

OPTIONS = {"model": "resnet-18", "learning_rate": 0.1, "logging_steps": 0.02}
SPLIT = [("a/1.jpg", "a", "train", ""), ("b/2.jpg", "b", "validation", "")]


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "run")


def take(run, options=None, split=None, *, fresh=False, searched=()):
    claim = run_claim.RunClaim(run, {**OPTIONS, **(options or {})}, split or SPLIT, searched)
    return claim.take(fresh=fresh, write=True)


def add_checkpoint(run):
    (run / run_folder.CHECKPOINTS / "checkpoint-3").mkdir(parents=True)


def test_take_is_new_stopped_finished(run):
    assert take(run) == "new"
    assert take(run) == "stopped"
    run.write_json(run_folder.METRICS, {})
    assert take(run) == "finished"
    assert take(run, fresh=True) == "new"
    assert not run.finished


def test_take_replaces_a_run_without_a_checkpoint(run):
    take(run)
    assert take(run, {"learning_rate": 0.2}) == "new"
    assert run.read_options()["learning_rate"] == 0.2


def test_take_refuses_options_without_a_split(run):
    run.write_options({"epochs": 3})
    with pytest.raises(RunError, match="this same run"):
        take(run)
    assert run.read_options() == {"epochs": 3}


def test_take_refuses_another_run_and_names_the_differences(run):
    take(run)
    add_checkpoint(run)
    with pytest.raises(RunError, match=r"learning_rate 0\.1 -> 0\.2"):
        take(run, {"learning_rate": 0.2})
    with pytest.raises(RunError, match="1 new or moved, 1 gone"):
        take(run, split=[SPLIT[0], ("b/3.jpg", "b", "validation", "")])


def test_take_ignores_options_that_do_not_change_the_result(run):
    take(run)
    add_checkpoint(run)
    assert take(run, {"logging_steps": 0.5, "traceback": True, "output_dir": "elsewhere"}) == "stopped"
    assert take(run, {"cuda_graph": "auto"}) == "stopped"  # an option that the earlier version did not have
    assert take(run, {"cuda_graph": "off"}) == "stopped"
    assert take(run, {"learning_rate": 0.2}, searched=["learning_rate"]) == "stopped"


@pytest.mark.parametrize("name", ["model.safetensors", "metrics.json", "checkpoints"])
def test_take_refuses_files_that_are_not_a_run_s(run, name):
    run.path.mkdir()
    (run / name).mkdir() if name == "checkpoints" else (run / name).write_text("mine")
    with pytest.raises(RunError, match=f"got {name} without options.yaml"):
        take(run)
    assert (run / name).is_dir() or (run / name).read_text() == "mine"
    assert take(run, fresh=True) == "new"


def test_take_fresh_removes_earlier_results(run):
    take(run)
    for name in (run_folder.METRICS, run_folder.DIAGNOSIS):
        run.write_json(name, {})
    add_checkpoint(run)
    take(run, fresh=True)
    assert {p.name for p in run.path.iterdir()} == {run_folder.OPTIONS, run_folder.SPLIT}


def test_check_writable_refuses_a_file(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(RunError, match="got the file"):
        run_claim.check_writable(RunFolder(tmp_path / "run"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_check_writable_refuses_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match="--output_dir"):
        run_claim.check_writable(RunFolder(tmp_path / "run"))


def test_check_writable_refuses_a_full_disk(run):
    with pytest.raises(RunError, match="Make room"):
        run_claim.check_writable(run, needed_bytes=10**18)


def test_remove_weights_leaves_the_results(run):
    add_checkpoint(run)
    run.write_bytes(run_folder.WEIGHTS, b"x")
    run.write_json(run_folder.METRICS, {})
    run_claim.remove_weights(run)
    assert [p.name for p in run.path.iterdir()] == [run_folder.METRICS]


def test_remove_run_leaves_what_is_not_a_run_s(tmp_path):
    run = RunFolder(tmp_path)
    for name in ("validation/cat/a.jpg", "figures/mine.png", "figures/curves.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    run.write_json("validation/photos/metrics.json", {})
    run.write_logits("validation/photos/logits.npz", test=np.zeros((1, 2)))
    run_claim.remove_run(run)
    remaining = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert remaining == {"validation/cat/a.jpg", "figures/mine.png"}
