"""The page and its figures: any number of classes, any names, nothing that a page must not do."""

import re

import numpy as np
import pytest
from drawings import photo

from imgcls.evaluation import calibration
from imgcls.evaluation.metrics import compute_metrics
from imgcls.report import charts, confusion_matrix, report_page
from imgcls.report.report_page import EvaluatedSplit, ReportContent
from imgcls.storage import run_folder

HOSTILE = ["<script>alert(1)", "<img src=x onerror=alert(2)>", '"q" & \'s\'', "emoji 🐸 é", "line\nbreak",
           "\u05e9\u05dc\u05d5\u05dd \u202e rtl", "$x^2$ $", "{a} %s"]  # fmt: skip


def content(tmp_path, classes, n=None, seed=0, right=0.7):
    """A page's content with random answers; the pictures are drawn once and used for all."""
    k = len(classes)
    n = n or 4 * k
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(k), rng.integers(0, k, n - k)])
    logits = rng.normal(0, 1, (n, k)).astype(np.float32)
    hit = rng.random(n) < right
    logits[hit, labels[hit]] += 5
    photo(40, 30, 0).save(tmp_path / "a.jpg")
    judged = EvaluatedSplit("test", classes, [f"{classes[y]}/{i}.jpg" for i, y in enumerate(labels)], labels, logits,
                    lambda i: str(tmp_path / "a.jpg"))  # fmt: skip
    history = [{"epoch": e / 2, "step": e, "loss": 2.0 / (e + 1), "learning_rate": 1e-3} for e in range(6)]
    history += [
        {"epoch": e, "step": 2 * e, "eval_loss": 1.0, "eval_accuracy": 0.5, "eval_macro_f1": 0.4} for e in (1, 2)
    ]
    suspect = {"path": judged.paths[0], "label": classes[0], "suggested": classes[1], "score": "0.01"}
    return ReportContent(
        title=classes[0], subtitle="a model", numbers=compute_metrics(logits, labels, classes), judged=judged,
        trust=calibration.fit_calibration(logits, labels), findings=[
            {"code": "plateau", "severity": "info", "evidence": classes[0], "advice": "Wait."}],
        problems=[{"code": "dark", "severity": "warning", "message": classes[1], "advice": "Look."}],
        next_steps=["python x --data <b>"], history=history, suspects=[suspect],
        source=lambda path: str(tmp_path / "a.jpg"),
        splits={name: {"train": 3, "test": 4} for name in classes}, options={"data": classes[0], "lr": 0.1},
        facts={"machine": "m"}, tables={"Robustness": [["kind", "accuracy"], ["blur", 0.5]]},
    )  # fmt: skip


@pytest.mark.parametrize("k", [2, 6, 25, 26, 200])
def test_any_number_of_classes(tmp_path, k):
    run = run_folder.RunFolder(tmp_path / "run")
    report_page.write_report(run, content(tmp_path, [f"class {i}" for i in range(k)]))
    page = (run / "report.html").read_text()
    assert page.count('class="matrix"') == (k <= confusion_matrix.MOST_CELLS)
    assert page.count("<rect") > (k if k > confusion_matrix.MOST_CELLS else 0)
    names = {p.name for p in (run / "figures").iterdir()}
    assert names == {"curves.png", "confusion_matrix.png", "reliability.png", "coverage.png"}
    assert all((run / "figures" / name).read_bytes().startswith(b"\x89PNG") for name in names)
    for section in (
        "What to know",
        "Classes",
        "Most confused",
        "Worst mistakes",
        "Labels to look at",
        "Robustness",
        "Data",
    ):
        assert f"<h2>{section}</h2>" in page


def test_names_that_would_break_a_page(tmp_path):
    run = run_folder.RunFolder(tmp_path / "run")
    report_page.write_report(run, content(tmp_path, HOSTILE, right=0.3))
    page = (run / "report.html").read_text()
    assert page.count("<script") == 1  # the page's own, which sorts tables
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "line\\nbreak" in page
    assert "\u202e" not in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)  # no request leaves it
    assert "url(http" not in page


def test_all_right_and_all_wrong(tmp_path):
    run = run_folder.RunFolder(tmp_path / "run")
    perfect = content(tmp_path, ["a", "b"], n=20, right=1.1)
    perfect.suspects, perfect.findings, perfect.problems, perfect.history = (), (), (), ()
    report_page.write_report(run, perfect)
    page = (run / "report.html").read_text()
    assert "Worst mistakes" not in page
    assert "Most confused" not in page
    assert "Nothing went wrong" in page
    assert not (run / "figures/curves.png").exists()
    wrong = content(tmp_path, ["a", "b"], n=20)
    wrong.judged.logits[:] = np.nan
    wrong.numbers = compute_metrics(wrong.judged.logits, wrong.judged.labels, ["a", "b"])
    report_page.write_report(run_folder.RunFolder(tmp_path / "nan"), wrong)


def test_svg_takes_the_page_s_colour(tmp_path):
    figure = charts.confusion([[3, 1], [0, 2]], ["<a>", "b & c"])
    text = charts.svg(figure)
    assert text.startswith("<svg")
    assert "currentColor" in text
    assert charts.INK not in text
    assert "&lt;a&gt;" in text
    assert "<metadata" not in text
