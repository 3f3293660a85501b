"""Inputs of predict.py: files, folders, patterns, lists, URLs."""

import http.server
import os
import threading

import pytest
from drawings import photo

from imgcls.deploy import input_files
from imgcls.errors import ImageError, OptionError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """a.jpg, b/c.png, b/d/e.jpg, notes, a hidden file and folder, a link upwards."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "in"
    (root / "b" / "d").mkdir(parents=True)
    (root / ".hidden").mkdir()
    for name in ("a.jpg", "b/c.png", "b/d/e.jpg", ".x.jpg", ".hidden/y.jpg", "odd"):
        photo(8, 8, 0).save(root / name, format="PNG" if name.endswith("png") else "JPEG")
    (root / "notes.txt").write_text("no image")
    os.symlink(root, root / "b" / "up")
    return root


def test_expand_inputs_of_a_folder(folder):
    assert list(input_files.expand_inputs(["in"])) == ["in/a.jpg", "in/odd", "in/b/c.png", "in/b/d/e.jpg"]


def test_expand_inputs_of_files_and_patterns(folder):
    assert list(input_files.expand_inputs(["in/notes.txt"])) == [
        "in/notes.txt"
    ]  # named by a person: the answer will say why not
    assert list(input_files.expand_inputs(["in/*"])) == ["in/a.jpg", "in/b/c.png", "in/b/d/e.jpg", "in/odd"]
    assert list(input_files.expand_inputs(["in/b/d/**/*.jpg"])) == ["in/b/d/e.jpg"]
    (folder / "b[1].jpg").write_bytes((folder / "a.jpg").read_bytes())
    assert list(input_files.expand_inputs(["in/b[1].jpg"])) == ["in/b[1].jpg"]  # a name, though it looks like a pattern


def test_expand_inputs_of_a_list(folder):
    assert list(input_files.expand_inputs(["-", "in/a.jpg"], ["x.jpg\n", "\n", "y z.jpg\r\n"])) == [
        "x.jpg",
        "y z.jpg",
        "in/a.jpg",
    ]


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([], "no input"),
        (["in/aa.jpg"], "a.jpg"),
        (["in/*.tif"], "does not exist"),
        (["http://h/x.jpg"], "--allow_urls"),
    ],
)
def test_check_inputs_refuses_missing_inputs_and_urls(folder, inputs, words):
    with pytest.raises(OptionError, match=words):
        input_files.check_inputs(inputs, allow_urls=False)


def test_check_inputs_accepts_what_exists(folder):
    input_files.check_inputs(["in", "in/a.jpg", "in/*.jpg", "-", "HTTPS://h/x.jpg"], allow_urls=True)


def test_read_input_downloads_urls(folder):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_address[1]}"
        assert input_files.read_input(f"{base}/in/a.jpg", allow_urls=True) == (folder / "a.jpg").read_bytes()
        with pytest.raises(ImageError) as raised:
            input_files.read_input(f"{base}/in/none.jpg", allow_urls=True)
        assert "404" in str(raised.value.__cause__)
        with pytest.raises(ImageError):
            input_files.read_input(f"{base}/in/a.jpg", allow_urls=False)
        server.shutdown()
    assert input_files.read_input("in/a.jpg", allow_urls=False) == "in/a.jpg"


@pytest.mark.parametrize("url", ["http://h/a b.jpg", "http://h/é.jpg", "http://[bad/x.jpg", f"http://{'a' * 70}/x.jpg"])
def test_read_input_refuses_malformed_urls(url):
    with pytest.raises(ImageError):
        input_files.read_input(url, allow_urls=True)


def test_expand_inputs_of_recursive_patterns_has_each_image_once(folder):
    os.unlink(folder / "b" / "up")
    for pattern in ("in/**", "in/**/*"):
        found = list(input_files.expand_inputs([pattern]))
        assert sorted(found) == ["in/a.jpg", "in/b/c.png", "in/b/d/e.jpg", "in/odd"]


def test_check_inputs_refuses_a_sort_folder_inside_of_an_input(folder):
    input_files.check_inputs(["in"], allow_urls=False, sort_into="out")
    for sort_into in ("in", "in/b/sorted"):
        with pytest.raises(OptionError, match="--sort_into outside"):
            input_files.check_inputs(["in"], allow_urls=False, sort_into=sort_into)
