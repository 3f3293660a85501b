"""A table that is stopped at any byte resumes without losing or repeating a row."""

import csv
import io
import json

import pytest

from imgcls.errors import OptionError
from imgcls.storage import resumable_table
from imgcls.storage.resumable_table import ResumableTable, open_table

COLUMNS = ("path", "predicted", "confidence", "unsure", "note")
NAMES = [
    "a.jpg",
    'quoted "b".jpg',
    "comma, c.jpg",
    "line\nbreak.jpg",
    "return\rhere.jpg",
    "\u05e9 \U0001f438.jpg",
    "bad \udcff byte.jpg",
]
CSV = (
    b"path,predicted,confidence,unsure,note\n"
    b"a.jpg,class of a.jpg,0.1,1,\n"
    b'"quoted ""b"".jpg","class of quoted ""b"".jpg",0.1,1,\n'
    b'"comma, c.jpg","class of comma, c.jpg",0.1,1,\n'
    b'"line\nbreak.jpg","class of line\nbreak.jpg",0.1,1,\n'
    b'"return\rhere.jpg","class of return\rhere.jpg","0.1","1",""\n'
    b"\xd7\xa9 \xf0\x9f\x90\xb8.jpg,class of \xd7\xa9 \xf0\x9f\x90\xb8.jpg,0.1,1,\n"
    b"bad \xff byte.jpg,class of bad \xff byte.jpg,0.1,1,\n"
)


def row(name):
    return {"path": name, "predicted": f"class of {name}", "confidence": 0.1, "unsure": 1, "note": ""}


def write(file, names=NAMES, settings="s"):
    with ResumableTable(file, COLUMNS, settings) as table:
        for name in table.rest(names):
            table.write([row(name)])
        table.finish()


def read_names(file):
    text = file.read_bytes().decode(errors="surrogateescape")
    if file.suffix == ".csv":
        return [r["path"] for r in csv.DictReader(io.StringIO(text, newline=""))]
    return [json.loads(line)["path"] for line in text.splitlines()]


def test_finish_writes_the_format_of_the_suffix(tmp_path):
    write(tmp_path / "a.csv")
    write(tmp_path / "a.jsonl")
    assert (tmp_path / "a.csv").read_bytes() == CSV
    assert read_names(tmp_path / "a.csv") == read_names(tmp_path / "a.jsonl") == NAMES
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.csv", "a.jsonl"]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_rest_resumes_a_table_stopped_at_any_byte(tmp_path, suffix):
    write(tmp_path / "rows.jsonl")
    write(tmp_path / f"whole{suffix}")
    rows, expected = (tmp_path / "rows.jsonl").read_bytes(), (tmp_path / f"whole{suffix}").read_bytes()
    for end in range(len(rows) + 1):
        file = tmp_path / f"{end}{suffix}"
        partial = ResumableTable(file, COLUMNS, "s").partial
        partial.write_bytes(rows[:end])
        write(file)
        assert file.read_bytes() == expected, end
        assert not partial.exists()


def test_finish_that_fails_can_be_repeated(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(resumable_table, "_write_csv", fail)
        with pytest.raises(OSError, match="disk full"):
            write(tmp_path / "a.csv")
    assert len(list(tmp_path.iterdir())) == 1
    write(tmp_path / "a.csv")
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]
    assert (tmp_path / "a.csv").read_bytes() == CSV


def test_table_refuses_an_existing_file_and_other_formats(tmp_path):
    (tmp_path / "a.csv").write_text("mine")
    with pytest.raises(OptionError, match="exists"):
        ResumableTable(tmp_path / "a.csv", COLUMNS, "s")
    with pytest.raises(OptionError, match=r"\.csv or \.jsonl"):
        ResumableTable(tmp_path / "a.txt", COLUMNS, "s")


def test_rest_refuses_other_images(tmp_path):
    with ResumableTable(tmp_path / "a.csv", COLUMNS, "s") as table:
        table.write([row("a.jpg"), row("b.jpg")])
    with ResumableTable(tmp_path / "a.csv", COLUMNS, "s") as table, pytest.raises(OptionError, match=r"got x\.jpg"):
        list(table.rest(["a.jpg", "x.jpg"]))
    with ResumableTable(tmp_path / "a.csv", COLUMNS, "s") as table, pytest.raises(OptionError, match="no more"):
        list(table.rest(["a.jpg"]))


def test_table_of_other_settings_starts_over_and_clears_up(tmp_path):
    with ResumableTable(tmp_path / "a.csv", COLUMNS, "s") as table:
        table.write([row("a.jpg")])
        assert table.count() == 1
    with ResumableTable(tmp_path / "a.csv", COLUMNS, "t") as table:
        assert table.count() == 0
        assert list(table.rest(["b.jpg"])) == ["b.jpg"]
        table.finish()
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]


@pytest.mark.parametrize(
    ("format", "expected"),
    [
        ("csv", "path,predicted,confidence,unsure,note\na,class of a,0.1,1,\n"),
        ("jsonl", '{"path": "a", "predicted": "class of a", "confidence": 0.1, "unsure": 1, "note": ""}\n'),
        ("table", "a -> class of a\n"),
    ],
)
def test_open_table_without_a_file_prints(capsys, format, expected):
    with open_table(None, format, COLUMNS, "s", lambda r: f"{r['path']} -> {r['predicted']}") as table:
        assert list(table.rest(["a"])) == ["a"]
        assert table.count() == 0
        table.write([row("a")])
        table.finish()
    assert capsys.readouterr().out == expected
