"""Files of a run folder: whole or not at all; whose folder it is."""

import contextlib
import json
import os

import numpy as np
import pytest

from imgcls.errors import RunError
from imgcls.storage import atomic_file, run_folder
from imgcls.storage.run_folder import RunFolder

OPTIONS = {"model": "resnet-18", "learning_rate": 0.1, "logging_steps": 0.02}
SPLIT = [("a/1.jpg", "a", "train", ""), ("b/2.jpg", "b", "validation", "")]


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "run")


def claim(run, options=None, split=None, fresh=False):
    return run.claim({**OPTIONS, **(options or {})}, split or SPLIT, fresh=fresh, write=True)


def test_a_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "deep" / "file"
    with contextlib.suppress(ZeroDivisionError), atomic_file.atomic_write(path) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert not path.exists()
    with atomic_file.atomic_write(path) as file:
        file.write(b"whole")
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_new_stopped_finished(run):
    assert claim(run) == "new"
    assert claim(run) == "stopped"
    run.write_json(run_folder.METRICS, {})
    assert claim(run) == "finished"
    assert claim(run, fresh=True) == "new"
    assert not run.finished


def learned(run):
    """As after the first checkpoint."""
    (run / run_folder.CHECKPOINTS / "checkpoint-3").mkdir(parents=True)


def test_a_run_that_learned_nothing_yet_gives_way(run):
    claim(run)
    assert claim(run, {"learning_rate": 0.2}) == "new"
    assert run.read_options()["learning_rate"] == 0.2


def test_how_a_step_is_started_is_no_other_run(run):
    claim(run)  # of a version that did not know the option
    learned(run)
    assert claim(run, {"cuda_graph": "auto"}) == "stopped"
    assert claim(run, {"cuda_graph": "off"}) == "stopped"


def test_options_of_another_s_making_do_not_give_way(run):
    run.write_options({"epochs": 3})
    with pytest.raises(RunError, match="this same run"):
        claim(run)
    assert run.read_options() == {"epochs": 3}


def test_another_run_is_refused_with_what_differs(run):
    claim(run)
    learned(run)
    with pytest.raises(RunError, match=r"learning_rate 0\.1 -> 0\.2"):
        claim(run, {"learning_rate": 0.2})
    with pytest.raises(RunError, match="1 new or moved, 1 gone"):
        claim(run, split=[SPLIT[0], ("b/3.jpg", "b", "validation", "")])


@pytest.mark.parametrize("name", ["model.safetensors", "metrics.json", "checkpoints"])
def test_what_is_no_run_s_is_not_overwritten(run, name):
    run.path.mkdir()
    (run / name).mkdir() if name == "checkpoints" else (run / name).write_text("mine")
    with pytest.raises(RunError, match=f"got {name} without options.yaml"):
        claim(run)
    assert (run / name).is_dir() or (run / name).read_text() == "mine"
    assert claim(run, fresh=True) == "new"


def test_options_that_do_not_change_the_result_may_differ(run):
    claim(run)
    assert claim(run, {"logging_steps": 0.5, "traceback": True, "output_dir": "elsewhere"}) == "stopped"


def test_starting_over_removes_the_former_results(run):
    claim(run)
    for name in (run_folder.METRICS, run_folder.DIAGNOSIS):
        run.write_json(name, {})
    (run / run_folder.CHECKPOINTS / "checkpoint-3").mkdir(parents=True)
    claim(run, fresh=True)
    assert {p.name for p in run.path.iterdir()} == {run_folder.OPTIONS, run_folder.SPLIT}


def test_csv_keeps_names_that_need_quotes(run):
    rows = [('a, b/é"1".jpg', "a, b", "train", ""), ("line\nbreak.jpg", "ß", "train", "")]
    run.write_csv(run_folder.SPLIT, run_folder.SPLIT_COLUMNS, rows)
    assert [tuple(row.values()) for row in run.read_csv(run_folder.SPLIT)] == rows


def test_json_has_no_nan(run):
    run.write_json("x.json", {"loss": float("nan"), "list": [1.0, float("inf")]})
    assert json.loads((run / "x.json").read_text()) == {"loss": None, "list": [1.0, None]}


def test_damaged_json_is_named(run):
    run.path.mkdir()
    (run / "metrics.json").write_text("{")
    with pytest.raises(RunError, match=r"metrics\.json"):
        run.read_json("metrics.json")


def test_logits_are_float32_by_split(run):
    run.write_logits(validation=np.ones((3, 2), np.float32), test=np.zeros((1, 2), np.float32))
    found = np.load(run / run_folder.LOGITS)
    assert {name: (found[name].dtype.name, found[name].shape) for name in found} == {
        "validation": ("float32", (3, 2)),
        "test": ("float32", (1, 2)),
    }


def test_the_last_checkpoint_is_the_one_with_most_steps(run):
    for name in ("checkpoint-9", "checkpoint-10", ".partial/checkpoint-11", "checkpoint-x"):
        (run / run_folder.CHECKPOINTS / name).mkdir(parents=True)
    assert run.last_checkpoint().name == "checkpoint-10"


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(RunError, match="got the file"):
        RunFolder(tmp_path / "run").check_writable()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match="--output_dir"):
        RunFolder(tmp_path / "run").check_writable()


def test_too_little_room(run):
    with pytest.raises(RunError, match="Make room"):
        run.check_writable(needed_bytes=10**18)


def test_what_is_someone_s_own_stays(tmp_path):
    run = RunFolder(tmp_path)
    for name in ("validation/cat/a.jpg", "figures/mine.png", "figures/curves.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    run.write_json("validation/photos/metrics.json", {})
    run.write_logits("validation/photos/logits.npz", test=np.zeros((1, 2)))
    run.clear()
    left = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert left == {"validation/cat/a.jpg", "figures/mine.png"}
