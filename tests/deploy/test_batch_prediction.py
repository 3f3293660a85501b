"""scripts/predict.py: the predictions of pipeline, in all formats, also after a stop."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import tiny
import torch
from commands import TESTS, main_of
from drawings import class_folders, photo
from PIL import ExifTags, Image
from transformers import pipeline

from imgcls.config import parser
from imgcls.data import decoding
from imgcls.errors import OptionError
from imgcls.models import classifier, source
from imgcls.storage import resumable_table

PREDICT = TESTS.parent / "scripts" / "predict.py"


@pytest.fixture
def predict(monkeypatch, capsys):
    main = main_of(PREDICT)

    def run(*arguments, stdin=None):
        monkeypatch.setattr(sys, "argv", [str(PREDICT), *map(str, arguments)])
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", stdin)
        code = parser.run_main(main)
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


def saved(name, folder):
    """A model folder with three classes, as a run leaves it."""
    torch.manual_seed(0)
    built = classifier.build_classifier(
        source.resolve_model(str(tiny.write(name, folder / "backbone"))), ["a", "b", "c"]
    )
    built.network.save_pretrained(folder / "run")
    if not hasattr(built.processor, "data_config"):
        built.processor.save_pretrained(folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return saved("resnet-18", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Twelve photos of several sizes, and two files that are none."""
    root = tmp_path_factory.mktemp("photos")
    for i in range(12):
        photo(90 + 10 * i, 70 + 7 * (i % 5), i).save(root / f"{i:02}.jpg")
    (root / "broken.jpg").write_bytes(b"\xff\xd8\xff" + bytes(100))
    (root / "empty.png").write_bytes(b"")
    return root


def rows(file):
    with open(file, newline="", encoding="utf-8") as text:
        return list(csv.DictReader(text))


@pytest.mark.parametrize("name", tiny.HUB_IDS)
def test_predict_files_of_all_architectures_equals_pipeline(predict, tmp_path, photos, name):
    folder = saved(name, tmp_path)
    code, _, err = predict("--run", folder, photos, "--out", tmp_path / "a.csv", "--top_k", 3, "--batch_size", 5)
    assert code == parser.EXIT_OK
    assert "not calibrated" in err
    assert "2 that could not be read" in err
    found = {os.path.basename(r["path"]): r for r in rows(tmp_path / "a.csv")}
    assert len(found) == 14
    theirs = pipeline("image-classification", model=str(folder), top_k=3)
    for i in range(12):
        row = found[f"{i:02}.jpg"]
        expected = theirs(str(photos / f"{i:02}.jpg"))
        assert [row["predicted"], row["predicted_2"], row["predicted_3"]] == [e["label"] for e in expected]
        mine = [float(row[k]) for k in ("confidence", "confidence_2", "confidence_3")]
        assert mine == pytest.approx([e["score"] for e in expected], abs=1e-4)
    assert found["empty.png"]["error"] == "the file is empty"
    assert found["broken.jpg"]["error"]
    assert found["broken.jpg"]["predicted"] == ""


def test_predict_files_prints_all_formats_of_lists_and_patterns(predict, run, photos, tmp_path):
    code, out, _ = predict("--run", run, photos / "00.jpg", photos / "empty.png", "--min_confidence", 1)
    assert code == parser.EXIT_OK
    assert out.splitlines()[0].endswith("unsure")
    assert "could not be read" in out.splitlines()[1]
    _, out, _ = predict("--run", run, photos / "0*.jpg", "--format", "jsonl")
    assert [json.loads(line)["path"] for line in out.splitlines()] == [str(photos / f"{i:02}.jpg") for i in range(10)]
    listed = [f"{photos / '03.jpg'}\n", f"{photos / 'none.jpg'}\n"]
    _, out, _ = predict("--run", run, "-", "--format", "csv", stdin=iter(listed))
    found = list(csv.DictReader(out.splitlines()))
    assert found[0]["predicted"]
    assert found[1]["error"]


def test_predict_files_sorts_copies_into_class_folders(predict, run, photos, tmp_path):
    code, _, _ = predict("--run", run, photos, "--out", tmp_path / "a.csv", "--sort_into", tmp_path / "sorted")
    assert code == parser.EXIT_OK
    copied = {p.name: p.parent.name for p in (tmp_path / "sorted").rglob("*.jpg")}
    assert copied == {os.path.basename(r["path"]): r["predicted"] for r in rows(tmp_path / "a.csv") if not r["error"]}


def test_predict_files_errors_are_one_line(predict, run, photos, tmp_path):
    (tmp_path / "a.csv").touch()
    for arguments, words in (
        (["--run", run, photos, "--out", tmp_path / "a.csv"], "exists"),
        (["--run", run, tmp_path / "nothing"], "does not exist"),
        (["--run", tmp_path, photos], "config.json"),
        ([photos], "--run"),
        (["--run", run], "got no input"),
        (["--run", run, photos, "--top_k", 0], "--top_k"),
    ):
        code, _, err = predict(*arguments)
        assert code == parser.EXIT_ERROR
        assert words in err
        assert err.count("error:") == 1


@pytest.fixture(scope="module")
def large_photos(tmp_path_factory):
    """Six JPEGs above what a processor looks at, upright and turned, with the sizes that they are displayed at."""
    root = tmp_path_factory.mktemp("large")
    for i in range(6):
        stored = photo(1300, 1000 + 100 * i, i)
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6 if i % 2 else 1
        stored.save(root / f"{i}.jpg", quality=92, exif=exif)
    return root


@pytest.fixture
def both(predict, tmp_path):
    """Answers without and with --fast, and what was said with it."""

    def run(folder, *arguments):
        answers = []
        for more in ((), ("--fast",)):
            out = tmp_path / f"{len(list(tmp_path.iterdir()))}.csv"
            code, _, err = predict("--run", folder, *arguments, "--out", out, "--top_k", 3, *more)
            assert code == parser.EXIT_OK
            assert ("--fast" in err) == bool(more)
            answers.append(rows(out))
        return *answers, err

    return run


@pytest.fixture
def decoded(monkeypatch):
    """Shorter sides of all images as they were decoded."""
    sides = []
    to_rgb = decoding.to_rgb

    def watched(*arguments):
        sides.append(min((pixels := to_rgb(*arguments)).size))
        return pixels

    monkeypatch.setattr(decoding, "to_rgb", watched)
    return sides


def by_class(row):
    return {row[f"predicted{k}"]: float(row[f"confidence{k}"]) for k in ("", "_2", "_3")}


# Shorter side that each processor resizes to; none for the one that takes the nearest pixel.
@pytest.mark.parametrize(("name", "to_px"), [
    ("vit-base", 224), ("resnet-18", 256), ("mobilenetv3-small", 256), ("efficientnet-b0", None),
])  # fmt: skip
def test_predict_files_fast_decodes_smaller_and_predicts_alike(both, decoded, tmp_path, large_photos, name, to_px):
    folder = saved(name, tmp_path / "model")
    exact, fast, err = both(folder, large_photos)
    assert [line for line in err.splitlines() if "--fast" in line and "may differ" in line]
    whole = [1000, 1100, 1200, 1300, 1300, 1300]
    assert sorted(decoded[:6]) == whole
    if to_px is None:
        assert sorted(decoded[6:]) == whole
        assert fast == exact
        return
    # of 1/2, 1/4 and 1/8 the smallest with 1.25 times the pixels
    expected = [min(s for d in (1, 2, 4, 8) if (s := -(-side // d)) >= 1.25 * to_px) for side in whole]
    assert sorted(decoded[6:]) == sorted(expected)
    for mine, theirs in zip(fast, exact, strict=True):
        assert mine["path"] == theirs["path"]
        assert by_class(mine) == pytest.approx(by_class(theirs), abs=0.005)
    assert fast != exact


def test_predict_files_fast_is_exact_where_nothing_can_be_decoded_smaller(both, decoded, run, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    photo(1300, 1000, 1).save(folder / "large.png")
    photo(300, 250, 2).save(folder / "small.jpg")
    photo(1300, 2, 3).save(folder / "flat.jpg")
    Image.new("RGB", (1, 1), "red").save(folder / "one.jpg")
    photo(3, 2, 4).save(folder / "tiny.png")
    (folder / "torn.jpg").write_bytes((folder / "small.jpg").read_bytes()[:1000])
    exact, fast, _ = both(run, folder)
    assert len(fast) == 6
    assert fast == exact
    assert [r["path"] for r in fast if r["error"]] == [str(folder / "torn.jpg")]
    assert decoded[: len(decoded) // 2] == decoded[len(decoded) // 2 :]


def test_predict_files_fast_detects_truncated_files(both, run, large_photos, tmp_path):
    file = tmp_path / "torn.jpg"
    whole = (large_photos / "0.jpg").read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    exact, fast, _ = both(run, file)
    assert exact[0]["error"]
    assert fast == exact


def test_predict_files_fast_does_not_resume_exact_predictions(predict, run, photos, tmp_path, monkeypatch):
    def stop(_):
        raise OptionError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(resumable_table.ResumableTable, "finish", stop)
        code, _, _ = predict("--run", run, photos, "--out", tmp_path / "a.csv")
    assert code == parser.EXIT_ERROR
    assert len(list(tmp_path.glob("*.partial"))) == 1
    _, _, err = predict("--run", run, photos, "--out", tmp_path / "a.csv", "--fast")
    assert "14 images, " in err
    assert len(rows(tmp_path / "a.csv")) == 14


def test_predict_files_of_a_run_are_calibrated(predict, train, shapes, resnet, tmp_path):
    folder = tmp_path / "run"
    assert train("--model", resnet, "--data", shapes, "--epochs", 2, "--output_dir", folder).returncode == 0
    trust = json.loads((folder / "calibration.json").read_text())
    code, _, err = predict("--run", folder, shapes, "--out", tmp_path / "a.csv")
    assert code == parser.EXIT_OK
    assert "validation images" in err
    (plain,) = pipeline("image-classification", model=str(folder), top_k=1)(rows(tmp_path / "a.csv")[0]["path"])
    row = rows(tmp_path / "a.csv")[0]
    assert row["predicted"] == plain["label"]
    if abs(trust["temperature"] - 1) > 0.05:
        assert float(row["confidence"]) != pytest.approx(plain["score"], abs=1e-4)


@pytest.mark.nightly
def test_predict_files_resumes_after_a_kill(run, tmp_path):
    data = class_folders(tmp_path / "data", per_class=400)
    out = tmp_path / "a.csv"
    command = [sys.executable, str(PREDICT), "--run", str(run), str(data), "--out", str(out), "--batch_size", "4"]
    kills = 0
    while not out.exists():
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if kills < 3:
            before = size(tmp_path)
            while process.poll() is None and size(tmp_path) <= before + 200:
                time.sleep(0.01)
            process.send_signal((signal.SIGKILL, signal.SIGINT, signal.SIGKILL)[kills])
            kills += 1
        process.communicate()
        assert process.returncode in (0, -signal.SIGKILL, parser.EXIT_INTERRUPTED)
    paths = [r["path"] for r in rows(out)]
    assert paths == sorted(str(p) for p in data.rglob("*.jpg"))
    assert kills > 1
    assert not list(tmp_path.glob("*.partial"))


def size(folder):
    return sum(p.stat().st_size for p in folder.glob("*.partial"))


def test_predict_files_refuses_a_backbone_without_a_trained_head(predict, tmp_path):
    folder = tiny.write("vit-base", tmp_path / "backbone")
    code, _, err = predict("--run", folder, tmp_path)
    assert code == parser.EXIT_ERROR
    assert "Train it first" in err
