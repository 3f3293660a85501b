"""scripts/compare.py on finished runs."""

import json
import shutil
import sys

import pytest
from commands import TESTS, main_of

from imgcls.config import parser

COMPARE = TESTS.parent / "scripts" / "compare.py"


@pytest.fixture
def compare(monkeypatch, capsys):
    """Run scripts/compare.py: (exit code, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [str(COMPARE), *map(str, arguments)])
        code = parser.run_main(main_of(COMPARE))
        output = capsys.readouterr()
        return code, output.out, output.err

    return run


def test_compare_lists_finished_runs_and_names_other_folders(compare, shared, tmp_path):
    second = shutil.copytree(shared.path, tmp_path / "second")
    code, out, err = compare(shared.path, second, tmp_path, "--out", tmp_path / "c.html")
    assert code == parser.EXIT_OK
    assert f"skipped: Expected a finished run in {tmp_path}" in err
    assert [line.split()[0] for line in out.splitlines()[1:3]] == [str(shared.path), str(second)]
    assert "options that differ" not in out
    assert "<table" in (tmp_path / "c.html").read_text()
    assert compare(tmp_path)[0] == parser.EXIT_ERROR


def test_compare_prints_json(compare, shared):
    code, out, _ = compare(shared.path, "--json")
    assert code == parser.EXIT_OK
    (row,) = json.loads(out)["runs"]
    assert (row["accuracy"], row["judged_by"]) == (shared.read_json("metrics.json")["test"]["accuracy"], "test")
    assert row["latency_ms"] > 0


def test_compare_skips_files_and_runs_without_weights(compare, shared, tmp_path):
    (tmp_path / "notes.txt").write_text("no run")
    bare = shutil.copytree(shared.path, tmp_path / "bare")
    (bare / "model.safetensors").unlink()
    code, _, err = compare(shared.path, tmp_path / "notes.txt", bare)
    assert code == parser.EXIT_OK
    assert err.count("skipped") == 2
