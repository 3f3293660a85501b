"""The page and its figures: any number of classes, any names, nothing that a page must not do."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drawings import photo

from imgcls.evaluation import calibration
from imgcls.evaluation.held_out import HeldOutPredictions
from imgcls.evaluation.metrics import compute_metrics
from imgcls.report import confusion_matrix, report_page
from imgcls.report.report_page import ReportContent, ReportedEvaluation, ReportImages, TrainingRecord
from imgcls.storage import run_folder

HOSTILE = ["<script>alert(1)", "<img src=x onerror=alert(2)>", '"q" & \'s\'', "emoji 🐸 é", "line\nbreak",
           "\u05e9\u05dc\u05d5\u05dd \u202e rtl", "$x^2$ $", "{a} %s"]  # fmt: skip


@pytest.fixture
def images(tmp_path):
    """One drawing in place of every image."""
    photo(40, 30, 0).save(tmp_path / "a.jpg")
    return ReportImages(lambda path: str(tmp_path / "a.jpg"))


def content(images, classes, n=None, seed=0, correct=0.7):
    """A page's content with random predictions, of which about a fraction `correct` is right."""
    k = len(classes)
    n = n or 4 * k
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(k), rng.integers(0, k, n - k)])
    logits = rng.normal(0, 1, (n, k)).astype(np.float32)
    hit = rng.random(n) < correct
    logits[hit, labels[hit]] += 5
    paths = [f"{classes[y]}/{i}.jpg" for i, y in enumerate(labels)]
    history = [{"epoch": e / 2, "step": e, "loss": 2.0 / (e + 1), "learning_rate": 1e-3} for e in range(6)]
    history += [
        {"epoch": e, "step": 2 * e, "eval_loss": 1.0, "eval_accuracy": 0.5, "eval_macro_f1": 0.4} for e in (1, 2)
    ]
    return ReportContent(
        run=Path("runs", classes[0].replace("/", "")),
        subtitle="a model",
        evaluation=ReportedEvaluation(
            HeldOutPredictions("test", classes, paths, labels, logits),
            compute_metrics(logits, labels, classes),
            calibration.fit_calibration(logits, labels)["temperature"],
            suspects=[{"path": paths[0], "label": classes[0], "suggested": classes[1], "score": "0.01"}],
            tables={"Robustness": [["kind", "accuracy"], ["blur", 0.5]]},
        ),
        images=images,
        findings=[{"code": "plateau", "severity": "info", "evidence": classes[0], "advice": "Wait."}],
        facts={"machine": "m"},
        training=TrainingRecord(
            history,
            "macro_f1",
            [
                {"code": "dark", "severity": "warning", "message": classes[1], "advice": "Look."},
                {"code": "small", "severity": "info", "message": classes[1], "advice": ""},
            ],
            {name: {"train": 3, "test": 4} for name in classes},
            {"data": classes[0], "lr": 0.1},
        ),
    )


@pytest.mark.parametrize("k", [2, 6, 25, 26, 200])
def test_write_report_of_any_number_of_classes(tmp_path, images, k):
    run = run_folder.RunFolder(tmp_path / "run")
    report_page.write_report(run, content(images, [f"class {i}" for i in range(k)]))
    page = (run / "report.html").read_text()
    assert page.count('class="matrix"') == (k <= confusion_matrix.MAX_TABLE)
    assert page.count("<rect") > (k if k > confusion_matrix.MAX_TABLE else 0)
    names = {p.name for p in (run / "figures").iterdir()}
    assert names == {"curves.png", "confusion_matrix.png", "reliability.png", "coverage.png"}
    assert all((run / "figures" / name).read_bytes().startswith(b"\x89PNG") for name in names)
    for section in (
        "Findings",
        "Confusion matrix",
        "Classes",
        "Most confused classes",
        "Most confident mistakes",
        "Possible label errors",
        "Confidence",
        "Robustness",
        "Data",
        "Details",
    ):
        assert f"<h2>{section}</h2>" in page


def test_write_report_escapes_names(tmp_path, images):
    run = run_folder.RunFolder(tmp_path / "run")
    report_page.write_report(run, content(images, HOSTILE, correct=0.3))
    page = (run / "report.html").read_text()
    assert page.count("<script") == 1  # the page's own, which sorts tables
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "line\\nbreak" in page
    assert "\u202e" not in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)  # no request leaves it
    assert "url(http" not in page


def test_write_report_shows_everything_that_it_is_given(tmp_path, images):
    run = run_folder.RunFolder(tmp_path / "run")
    given = content(images, ["cat", "dog"])
    report_page.write_report(run, given)
    page = (run / "report.html").read_text()
    numbers = given.evaluation.numbers
    assert f"<b>{numbers['accuracy']:.3f}</b>" in page
    assert f"{numbers['macro_f1']:.3f}" in page
    for text in (
        "info: plateau",
        "Wait.",
        "data: dark",
        "Look.",
        "<bdi>small</bdi>: ",
        "1 photo may be in the wrong folder",
        "--run runs/cat",
        "blur",
        "0.500",
        "macro f1",
        "machine",
    ):
        assert text in page
    assert len(re.findall('<td class="n" data-v="[34]">[34]</td>', page)) >= 4


def test_write_report_of_a_perfect_model(tmp_path, images):
    run = run_folder.RunFolder(tmp_path / "run")
    some = content(images, ["a", "b"], n=20, correct=1.1)
    perfect = replace(
        some, evaluation=replace(some.evaluation, suspects=()), findings=(), training=TrainingRecord(), facts={}
    )
    report_page.write_report(run, perfect)
    page = (run / "report.html").read_text()
    assert "Most confident mistakes" not in page
    assert "Most confused" not in page
    assert "wrong folder" not in page
    assert "No problems found." in page
    assert not (run / "figures/curves.png").exists()


def test_write_report_of_a_diverged_model(tmp_path, images):
    some = content(images, ["a", "b"], n=20)
    predictions = some.evaluation.predictions
    predictions.logits[:] = np.nan
    numbers = compute_metrics(predictions.logits, predictions.labels, ["a", "b"])
    run = run_folder.RunFolder(tmp_path / "run")
    report_page.write_report(run, replace(some, evaluation=replace(some.evaluation, numbers=numbers)))
    assert (run / "report.html").exists()


def test_render_report_shows_heat_maps_of_the_mistakes_next_to_them(images):
    some = content(images, ["a", "b"])
    requests = []

    def heat_maps(paths, targets):
        requests.append((list(paths), list(targets)))
        return [f"heat{i}" for i in range(len(paths))]

    page = report_page.render_report(replace(some, images=replace(images, heat_maps=heat_maps)), {})
    ((paths, targets),) = requests
    predictions = some.evaluation.predictions
    assert targets == [predictions.predicted[predictions.paths.index(path)] for path in paths]
    assert all(f"base64,heat{i}" in page for i in range(len(paths)))
    assert "Right: the areas that led to this answer (bright)." in page
    assert "Right: the areas" not in report_page.render_report(some, {})


def test_render_report_of_images_that_are_gone(images, tmp_path):
    some = content(images, ["a", "b"])
    (tmp_path / "a.jpg").unlink()
    assert "no longer readable" in report_page.render_report(some, {})


def test_render_report_of_an_evaluation_has_no_training_commands(images):
    some = replace(content(images, ["a", "b"]), training=None)
    page = report_page.render_report(some, {})
    assert "scripts/predict.py" in page
    assert "scripts/train.py" not in page
    assert "<h2>Data</h2>" not in page
    assert "<title>a on test: report</title>" in page
