"""Files of a run folder: what is written can be read, and damage is reported."""

import json

import numpy as np
import pytest

from imgcls.errors import RunError
from imgcls.storage import run_folder
from imgcls.storage.run_folder import RunFolder


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "run")


def test_write_csv_keeps_names_that_need_quotes(run):
    rows = [('a, b/é"1".jpg', "a, b", "train", ""), ("line\nbreak.jpg", "ß", "train", "")]
    run.write_csv(run_folder.SPLIT, run_folder.SPLIT_COLUMNS, rows)
    assert [tuple(row.values()) for row in run.read_csv(run_folder.SPLIT)] == rows


def test_write_json_writes_null_for_nan(run):
    run.write_json("x.json", {"loss": float("nan"), "list": [1.0, float("inf")]})
    assert json.loads((run / "x.json").read_text()) == {"loss": None, "list": [1.0, None]}


def test_read_json_names_a_damaged_file(run):
    run.path.mkdir()
    (run / "metrics.json").write_text("{")
    with pytest.raises(RunError, match=r"metrics\.json"):
        run.read_json("metrics.json")


def test_read_gives_nothing_where_there_is_no_file(run):
    assert run.read_json("metrics.json") is None
    assert run.read_options() is None
    assert run.read_lines("history.jsonl") == []
    assert run.read_csv("split.csv") == []
    assert run.read_logits() == {}
    assert run.last_checkpoint() is None


def test_write_logits_is_float32_by_split(run):
    run.write_logits(validation=np.ones((3, 2), np.float32), test=np.zeros((1, 2), np.float32))
    arrays = np.load(run / run_folder.LOGITS)
    assert {name: (arrays[name].dtype.name, arrays[name].shape) for name in arrays} == {
        "validation": ("float32", (3, 2)),
        "test": ("float32", (1, 2)),
    }


def test_last_checkpoint_has_most_steps(run):
    for name in ("checkpoint-9", "checkpoint-10", ".partial/checkpoint-11", "checkpoint-x"):
        (run / run_folder.CHECKPOINTS / name).mkdir(parents=True)
    assert run.last_checkpoint().name == "checkpoint-10"
