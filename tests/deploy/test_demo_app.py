"""The demo page: predictions equal those of predict.py, many users at once, and flagged images are saved unchanged."""

import asyncio
import csv
import json
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import pytest
import tiny
import torch
from commands import TESTS, TRAIN, main_of
from drawings import photo
from PIL import Image

import imgcls.deploy
from imgcls.config import parser
from imgcls.data import decoding, image_folder, listing
from imgcls.errors import ImageError, ModelError, OptionError
from imgcls.models import classifier, source
from imgcls.storage import run_folder

pytest.importorskip("gradio")
from imgcls.deploy import demo_app, demo_model

SCRIPT, PREDICT = TESTS.parent / "scripts" / "demo.py", TESTS.parent / "scripts" / "predict.py"
STRANGE = ("<b>bold</b>", "${1 + 1} {{value}}", "قطة", "../../x")


def saved(name, folder, classes):
    """A model folder, as a run leaves it."""
    torch.manual_seed(0)
    built = classifier.build_classifier(source.resolve_model(str(tiny.write(name, folder / "backbone"))), list(classes))
    built.network.save_pretrained(folder / "run")
    built.processor.save_pretrained(folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory, shapes, resnet):
    """A finished run."""
    made = tmp_path_factory.mktemp("demo") / "run"
    arguments = ("--model", resnet, "--data", shapes, "--epochs", 2, "--val_fraction", 0.3, "--output_dir", made)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", [str(TRAIN), *map(str, arguments)])
        assert main_of(TRAIN)() == parser.EXIT_OK
    return made


@pytest.fixture(scope="module")
def shown(run):
    return demo_model.load_demo_model(str(run), 0.95, 4)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Photos of every kind that gradio's own reading would change."""
    root = tmp_path_factory.mktemp("pictures")
    turned = Image.Exif()
    turned[0x0112] = 6
    photo(120, 90, 0).save(root / "plain.jpg")
    photo(120, 90, 1).save(root / "turned.jpg", exif=turned)
    photo(120, 90, 2).convert("CMYK").save(root / "cmyk.jpg")
    photo(120, 90, 3).convert("LA").save(root / "alpha.png")
    deep = np.random.default_rng(0).integers(0, 65535, (60, 80), dtype=np.uint16)
    Image.fromarray(deep).save(root / "deep.png")
    photo(120, 90, 4).convert("P").save(root / "palette.gif")
    return sorted(root.iterdir())


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    """File -> what is said of it."""
    root = tmp_path_factory.mktemp("bad")
    (root / "text.jpg").write_text("no picture")
    (root / "empty.png").write_bytes(b"")
    photo(120, 90).save(root / "whole.jpg")
    (root / "cut.jpg").write_bytes((root / "whole.jpg").read_bytes()[:1500])
    Image.new("1", (10_000, 10_000)).save(root / "huge.png")
    Image.new("1", (20_000, 20_000)).save(root / "bomb.png")
    words = {
        "text.jpg": "not an image",
        "empty.png": "the file is empty",
        "cut.jpg": "truncated",
        "huge.png": "100 megapixels, and this page takes up to 64",
        "bomb.png": decoding.MORE_PIXELS,
    }
    return {root / name: reason for name, reason in words.items()}


@pytest.fixture
def app(monkeypatch):
    """demo.app; the event loops that gradio opens for its locks, and leaves open, are closed."""
    opened, new = [], asyncio.new_event_loop
    monkeypatch.setattr(asyncio, "new_event_loop", lambda: opened.append(new()) or opened[-1])
    yield demo_app.build_app
    asyncio.set_event_loop(None)
    for loop in opened:
        loop.close()


@pytest.fixture
def predicted(monkeypatch, tmp_path):
    """Rows of scripts/predict.py by file name."""

    def run_it(run, files, top_k=1):
        out = tmp_path / "predicted.csv"
        arguments = ("--run", run, *files, "--out", out, "--top_k", top_k)
        monkeypatch.setattr(sys, "argv", [str(PREDICT), *map(str, arguments)])
        assert main_of(PREDICT)() == parser.EXIT_OK
        return {Path(row["path"]).name: row for row in rows(out)}

    return run_it


def rows(file):
    with open(file, newline="", encoding="utf-8") as text:
        return list(csv.DictReader(text))


def test_answer_equals_predict_py(run, shown, pictures, predicted):
    expected = predicted(run, pictures, top_k=3)
    for picture in pictures:
        row, heat = shown.answer(str(picture))
        assert heat
        for key, value in expected[picture.name].items():
            if key.startswith("confidence"):
                assert row[key] == pytest.approx(float(value), abs=1e-4)
            elif key != "path":
                assert str(row[key]) == value
        text = demo_app.answer_text(shown, str(picture))
        assert ("unsure" in text) == bool(row["unsure"])
        percent = re.search(r'"n">([\d.]+) %', text)[1]
        assert float(percent) == pytest.approx(100 * row["confidence"], abs=0.06)


def test_answer_text_names_unreadable_files_before_decoding_them(shown, bad, monkeypatch):
    for file, reason in bad.items():
        if file.name != "cut.jpg":
            monkeypatch.setattr(decoding, "to_rgb", None)  # would decode it
        text = demo_app.answer_text(shown, str(file))
        monkeypatch.undo()
        assert f"{file.name} cannot be read: " in text
        assert reason in text
        with pytest.raises(ImageError):
            shown.answer(str(file))


def test_threshold_text_is_in_the_heading_and_in_unsure_answers(shown, pictures):
    file = str(pictures[0])
    for known, threshold, words in (
        ({"images": 9, "threshold": {"min_precision": 0.95, "confidence": 0.999}}, 1.0, "Answers below 99.9 %"),
        ({"images": 9, "threshold": {"min_precision": 0.95, "confidence": None}}, 1.01, "on 9 validation images"),
        (None, None, "never marked unsure"),
    ):
        model = demo_model.replace(shown.model)
        model.calibration = known
        other = demo_model.replace(
            shown, model=model, formatter=demo_model.replace(shown.formatter, threshold=threshold)
        )
        text = demo_app.answer_text(other, file)
        assert ("<b>unsure</b>" in text) == (known is not None)
        assert (words in text) == (known is not None)
        assert words in demo_app.heading(other)


def test_answer_text_escapes_names_and_may_have_no_heat_map(tmp_path, pictures, monkeypatch):
    other = demo_model.load_demo_model(str(saved("resnet-18", tmp_path, STRANGE)), 0.95, 4)
    monkeypatch.setattr(demo_model.heatmaps, "heatmap_pictures", lambda *_: None)
    text = demo_app.answer_text(other, str(pictures[0])) + demo_app.heading(other)
    assert "cannot be shown" in text
    assert "<b>bold" not in text
    assert "&lt;b&gt;bold" in text
    assert other.model.calibration is None


@pytest.mark.parametrize("name", ["resnet-18", "vit-base"])
def test_answer_in_many_threads_equals_one_thread(tmp_path, pictures, name):
    other = demo_model.load_demo_model(str(saved(name, tmp_path, "abcdef")), 0.95, 2)
    files = [str(path) for path in pictures] * 4
    alone = [other.answer(file) for file in files[: len(pictures)]] * 4
    with ThreadPoolExecutor(8) as pool:
        table = pool.submit(other.answer_all, [(f, f) for f in files], tmp_path / "a.csv", lambda done: None)
        together = list(pool.map(other.answer, files))
    for (row, heat), (expected, _), listed in zip(together, alone, table.result(), strict=True):
        assert heat
        assert row["predicted"] == expected["predicted"] == listed["predicted"]
        assert row["confidence"] == pytest.approx(expected["confidence"], abs=1e-5)
        assert listed["confidence"] == pytest.approx(expected["confidence"], abs=1e-5)
    assert not [module for module in other.model.network.modules() if module._forward_hooks]
    assert next(other.heatmap_network.parameters()) is next(other.model.network.parameters())


def test_answer_all_ends_with_the_page(shown, pictures, tmp_path):
    other = demo_model.replace(shown, model=demo_model.replace(shown.model, batch_size=1), closing=threading.Event())
    files = [(str(pictures[0]), f"{i}.png") for i in range(500)]
    found = other.answer_all(files, tmp_path / "a.csv", lambda done: other.closing.set())
    assert 0 < len(found) < 500
    assert [row["path"] for row in rows(tmp_path / "a.csv")] == [name for _, name in files[: len(found)]]


def test_save_flagged_makes_class_folders(tmp_path, pictures, bad):
    root = tmp_path / "flagged"
    names = ["cat", "قطة", "../../x", "..", "/etc", "a\\b", ".hidden", "__MACOSX", "_unsure", "a\0b\n", "<b>"]
    for name in names:
        kept = demo_model.save_flagged(str(pictures[0]), name, root)
        assert kept.parent == root
        assert (kept / pictures[0].name).read_bytes() == pictures[0].read_bytes()
    (tmp_path / pictures[0].name).write_bytes(pictures[1].read_bytes())
    for _ in range(2):
        demo_model.save_flagged(str(tmp_path / pictures[0].name), " cat ", root)
    found = image_folder.scan_image_folder(root, strict=False)
    assert len(found.classes) == len(names)
    assert sorted(file.path for file in found.files if file.label == "cat") == ["cat/alpha-2.png", "cat/alpha.png"]
    assert (root / "cat" / "alpha-2.png").read_bytes() == pictures[1].read_bytes()
    assert not found.skipped[listing.HIDDEN]
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["flagged"]


def test_flagged_text_says_what_cannot_be_saved(tmp_path, pictures, bad):
    root, picture = tmp_path / "flagged", str(pictures[0])
    (tmp_path / "photo.txt").write_bytes(pictures[0].read_bytes())
    (tmp_path / "file").touch()
    for path, name, into, words in (
        (None, "cat", root, "Choose one first"),
        (picture, None, root, "Choose it"),
        (picture, " ", root, "Choose it"),
        (picture, "x" * 300, root, "one too long"),
        (str(tmp_path / "photo.txt"), "cat", root, "Rename it"),
        (str(next(iter(bad))), "cat", root, "not an image"),
        (str(tmp_path / "gone.jpg"), "cat", root, "No such file"),
        (picture, "cat", tmp_path / "file", "Not saved in"),
    ):
        text = demo_app.flagged_text(path, name, into)
        assert 'role="alert"' in text
        assert words in text
    assert not root.exists()
    assert demo_model.flagged_folder("owner/name") == Path("runs/name/flagged")


def test_examples_are_validation_images_that_still_exist(run, shapes, tmp_path, monkeypatch):
    found = demo_model.examples(str(run))
    assert [name for _, name in found] == sorted(name.name for name in shapes.iterdir())
    split = {row["path"]: row["split"] for row in run_folder.RunFolder(run).read_csv(run_folder.SPLIT)}
    assert {split[str(Path(path).relative_to(shapes))] for path, _ in found} == {"validation"}
    assert demo_model.examples("owner/name") == []
    monkeypatch.setattr(run_folder.RunFolder, "read_options", lambda _: {"data": str(tmp_path / "gone")})
    assert demo_model.examples(str(run)) == []


def test_rows_text_cuts_a_long_table():
    row = {"path": "<i>", "predicted": "a", "confidence": 0.5, "unsure": 1, "error": ""}
    text = demo_app.rows_text([row] * (demo_app.MAX_ROWS + 1))
    assert text.count("&lt;i&gt;") == demo_app.MAX_ROWS
    assert "The first 1,000 of 1,001" in text


def test_build_app_without_flag_into_has_no_flagging(tmp_path, run, app):
    labels = [block.label for block in app(str(run)).blocks.values() if hasattr(block, "label")]
    assert "Picture" in labels
    assert "Right class, or a new one" not in labels
    with pytest.raises(ModelError, match=r"config\.json"):
        app(str(tmp_path))


def test_serve_refuses_unusable_ports_hosts_and_links(run, monkeypatch, app):
    blocks = app(str(run))
    with demo_app.socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OptionError, match=f"free port, got {port}"):
            demo_app.serve(blocks, "127.0.0.1", port, False)
    with pytest.raises(OptionError, match="no-such-host"):
        demo_app.serve(blocks, "no-such-host.invalid", None, False)
    monkeypatch.setattr(demo_app.gr.networking, "setup_tunnel", lambda **_: 1 / 0)
    with pytest.raises(OptionError, match="--share"):
        demo_app.serve(blocks, "127.0.0.1", None, True)
    assert not blocks.is_running


def test_demo_without_gradio_names_the_pip_command(monkeypatch, capsys, run):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "imgcls.deploy.demo_app")
    monkeypatch.delattr(imgcls.deploy, "demo_app")
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--run", str(run)])
    assert parser.run_main(main_of(SCRIPT)) == parser.EXIT_ERROR
    assert "pip install gradio" in capsys.readouterr().err


def called(address, name, path):
    """What the server says to who names a file on its disk."""
    body = json.dumps({"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}]}).encode()
    where = f"{address}gradio_api/call/{name}"
    with urlopen(Request(where, body, {"Content-Type": "application/json"})) as answer:
        event = json.load(answer)["event_id"]
    with urlopen(f"{where}/{event}") as answer:
        return answer.read().decode()


class Addresses(HTMLParser):
    """What a browser asks for by itself when it shows a page."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag in ("script", "link", "img", "iframe"):
            self.found += [value for name, value in attributes if name in ("src", "href")]


def test_demo_serves_a_live_page(run, pictures, bad, predicted, tmp_path):
    from gradio_client import Client, handle_file

    command = [sys.executable, str(SCRIPT), "--run", str(run), "--flag_into", str(tmp_path / "flagged")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            address = server.stdout.readline().strip()
            assert re.fullmatch(r"http://127\.0\.0\.1:78\d\d/", address), server.stderr.read()
            with urlopen(address) as answer:
                text = answer.read().decode()
            assert not [found for found in Addresses(text).found if "//" in found]
            assert '"stylesheets":[]' in text
            client = Client(address, verbose=False, download_files=tmp_path, analytics_enabled=False)
            files = [*pictures, *bad]
            table, out = client.predict([handle_file(path) for path in files], api_name="/answer_many")
            found = {row["path"]: row for row in rows(out)}
            for name, expected in predicted(run, pictures).items():
                assert found[name]["predicted"] == expected["predicted"]
                assert float(found[name]["confidence"]) == pytest.approx(float(expected["confidence"]), abs=1e-4)
                assert found[name].keys() == expected.keys()
            for path, reason in bad.items():
                assert reason in found[path.name]["error"]
                assert reason in table
                assert reason in client.predict(handle_file(path), api_name="/answer")
            assert "Bright: the areas that led to" in client.predict(handle_file(pictures[0]), api_name="/answer")
            kept = client.predict(handle_file(pictures[2]), "../cat", api_name="/flag")
            assert str(tmp_path / "flagged" / "_.._cat") in kept
            (copied,) = (tmp_path / "flagged" / "_.._cat").iterdir()
            assert copied.read_bytes() == pictures[2].read_bytes()
            assert "event: error" in called(address, "answer", str(pictures[0]))  # which is there, and was not uploaded
        finally:
            server.send_signal(signal.SIGINT)
            _, err = server.communicate(timeout=30)
    assert server.returncode == parser.EXIT_OK
    assert err.splitlines()[-1] == "stopped"
