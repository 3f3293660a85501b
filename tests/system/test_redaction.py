"""Tokens and folders are removed in every spelling; all else stays as it is."""

import html
import shlex

import markupsafe
import pytest

from imgcls.system import redaction


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--hub_token", "hf_a", "--lr", "1"], ["--lr", "1"]),
        (["--hub-token", "hf_a"], []),
        (["--hub_token=hf_a", "--hub-token=hf_b", "--fresh"], ["--fresh"]),
        (["--data", "/home/me/it's a secret/photos"], ["--data", "photos"]),
        (["--data=/x/photos", "--model=/x/ckpt"], ["--data", "photos", "--model", "ckpt"]),
        (["--data", "../x/y.csv", "--model", "google/vit-base"], ["--data", "y.csv", "--model", "google/vit-base"]),
        (
            ["--hub_model_id", "you/photos", "--group_by", r"regex:(\d\d)/?"],
            ["--hub_model_id", "you/photos", "--group_by", r"regex:(\d\d)/?"],
        ),
        (["--data", r"C:\Users\Müller\photos"], ["--data", "photos"]),
        (["--data", "/"], ["--data", ""]),
    ],
)
def test_redact_arguments_drops_tokens_and_folders(arguments, expected):
    assert redaction.redact_arguments(arguments) == expected


def test_redact_arguments_hides_the_name_of_the_home_folder(monkeypatch, tmp_path):
    home = tmp_path / "alice"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    assert redaction.redact_arguments(["--data", str(home)]) == ["--data", "~"]


def test_redact_command_drops_tokens_and_folders():
    stored = "torchrun --nproc_per_node 2 scripts/train.py --data '/a b/c' --hub-token hf_x --epochs 2"
    assert redaction.redact_command(stored) == "torchrun --nproc_per_node 2 scripts/train.py --data c --epochs 2"


@pytest.mark.parametrize("path", ["/home/me/photos", "/home/me/it's a secret & more", "/data/ü", "../customer/photos"])
def test_redact_hides_a_path_in_every_spelling(path):
    name = path.rsplit("/", 1)[1]
    plain = (path, shlex.quote(path))
    for form in (*plain, *map(html.escape, plain), *map(str, map(markupsafe.escape, plain))):
        assert redaction.redact(f"<td>{form}</td> {form}/cat/1.jpg", [path]).count("home") == 0
        assert path not in html.unescape(redaction.redact(f"see {form}/a.jpg", [path]))
    assert redaction.redact(f'"{html.escape(path)}/a/1.jpg"', [path]) == f'"{html.escape(name)}/a/1.jpg"'


def test_redact_hides_the_name_of_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/alice")
    assert redaction.redact("data: /home/alice, /home/alice/x", ["/home/alice"]) == "data: ~, ~/x"


def test_redact_leaves_longer_names_and_images():
    text = "/media-sorter /mediathek a/media src=data:image/jpeg;base64,AA/media/BB= x"
    assert redaction.redact(text, ["/media"]) == text
    assert redaction.redact(text, []) == text
    assert redaction.redact("/a/b/c and /a/b", ["/a/b", "/a/b/c"]) == "c and b"
