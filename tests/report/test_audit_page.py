"""scripts/check.py from folder to page: exit codes, files, and names that could break a page."""

import csv
import io
import json
import re
import sys

import pytest
from commands import TESTS, main_of
from drawings import class_folders, photo

from imgcls.config import parser

CHECK = TESTS.parent / "scripts" / "check.py"
HOSTILE = (
    "<script>alert(1)", "<img src=x onerror=alert(2)>", '"quoted" & \'single\'', "emoji 🐸 é", "line\nbreak",
    "\u05e9\u05dc\u05d5\u05dd \u202e rtl",
)  # fmt: skip


@pytest.fixture
def check(monkeypatch, capsys):
    main = main_of(CHECK)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [str(CHECK), *map(str, arguments)])
        code = parser.run_main(main)
        return code, capsys.readouterr().out

    return run


def test_check_of_a_sound_folder(check, tmp_path):
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(12):
            photo(120, 90, i + 50 * (name == "b")).save(tmp_path / f"data/{name}/{i}.jpg")
    code, out = check("--data", tmp_path / "data", "--output_dir", tmp_path / "out")
    assert code == parser.EXIT_OK
    assert "24 images in 2 classes, 24 of them readable\nno issues found" in out
    assert json.loads((tmp_path / "out/check.json").read_text()) == []
    assert (tmp_path / "out/exclude.csv").read_text() == "path,reason\n"
    page = (tmp_path / "out/check.html").read_text()
    assert "No problems found." in page
    assert page.count("<img ") == 16


def test_check_escapes_names(check, tmp_path):
    root = class_folders(tmp_path / "data", classes=HOSTILE, per_class=4)
    for i, name in enumerate(HOSTILE):
        (root / name / f"{name}.jpg").write_bytes(b"broken" * i)
    code, out = check("--data", root, "--output_dir", tmp_path / "out")
    assert code == parser.EXIT_PROBLEMS
    page = (tmp_path / "out/check.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "<img src=x" not in page
    assert "line\\nbreak" in page
    assert "\u202e" not in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)  # no request leaves it
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out/exclude.csv").read_text())))
    assert {row["path"] for row in rows} == {f"{name}/{name}.jpg" for name in HOSTILE}
    assert "unreadable" in out


def test_check_of_a_folder_that_is_not_there(check, tmp_path):
    code, _ = check("--data", tmp_path / "nothing", "--output_dir", tmp_path / "out")
    assert code == parser.EXIT_ERROR
    assert not (tmp_path / "out").exists()
