"""A table that is stopped at any byte goes on without losing a row or having one twice."""

import csv
import io
import json

import pytest

from imgcls.errors import OptionError
from imgcls.storage import resumable_table

COLUMNS = ("path", "predicted", "note")
NAMES = [
    "a.jpg", 'quoted "b".jpg', "comma, c.jpg", "line\nbreak.jpg", "return\rhere.jpg", "\u05e9 \U0001f438.jpg",
    "bad \udcff byte.jpg",
]  # fmt: skip


def row(name):
    return {"path": name, "predicted": f"class of {name}", "note": ""}


def write(file, names=NAMES, settings="s"):
    with resumable_table.ResumableTable(file, COLUMNS, settings) as out:
        for name in out.rest(names):
            out.write([row(name)])
        out.finish()


def read(file):
    text = file.read_bytes().decode(errors="surrogateescape")
    if file.suffix == ".csv":
        return [r["path"] for r in csv.DictReader(io.StringIO(text, newline=""))]
    return [json.loads(line)["path"] for line in text.splitlines()]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_stopped_at_any_byte(tmp_path, suffix):
    whole = tmp_path / f"whole{suffix}"
    write(whole)
    content = whole.read_bytes()
    assert read(whole) == NAMES
    for end in range(len(content)):
        file = tmp_path / f"{end}{suffix}"
        partial = resumable_table.ResumableTable(file, COLUMNS, "s").partial
        partial.write_bytes(content[:end])
        write(file)
        assert file.read_bytes() == content, end
        assert not partial.exists()


def test_an_existing_file_is_kept(tmp_path):
    (tmp_path / "a.csv").write_text("mine")
    with pytest.raises(OptionError, match="exists"):
        resumable_table.ResumableTable(tmp_path / "a.csv", COLUMNS, "s")
    with pytest.raises(OptionError, match=r"\.csv or \.jsonl"):
        resumable_table.ResumableTable(tmp_path / "a.txt", COLUMNS, "s")


def test_other_images_are_not_gone_on_with(tmp_path):
    with resumable_table.ResumableTable(tmp_path / "a.csv", COLUMNS, "s") as out:
        out.write([row("a.jpg"), row("b.jpg")])
    with (
        resumable_table.ResumableTable(tmp_path / "a.csv", COLUMNS, "s") as out,
        pytest.raises(OptionError, match=r"got x\.jpg"),
    ):
        list(out.rest(["a.jpg", "x.jpg"]))
    with (
        resumable_table.ResumableTable(tmp_path / "a.csv", COLUMNS, "s") as out,
        pytest.raises(OptionError, match="no more"),
    ):
        list(out.rest(["a.jpg"]))


def test_other_settings_start_over_and_clear_up(tmp_path):
    with resumable_table.ResumableTable(tmp_path / "a.csv", COLUMNS, "s") as out:
        out.write([row("a.jpg")])
    with resumable_table.ResumableTable(tmp_path / "a.csv", COLUMNS, "t") as out:
        assert out.count() == 0
        assert list(out.rest(["b.jpg"])) == ["b.jpg"]
        out.finish()
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]


@pytest.mark.parametrize("format", ["csv", "jsonl", "table"])
def test_printed(capsys, format):
    with resumable_table.open_table(None, format, COLUMNS, "s", lambda r: f"{r['path']} -> {r['predicted']}") as out:
        assert list(out.rest(["a"])) == ["a"]
        out.write([row("a")])
        out.finish()
    shown = capsys.readouterr().out
    expected = {
        "csv": "path,predicted,note\na,class of a,\n",
        "jsonl": '{"path": "a", "predicted": "class of a", "note": ""}\n',
        "table": "a -> class of a\n",
    }
    assert shown == expected[format]
