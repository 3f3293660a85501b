"""The page a person reads: can the model be trusted, where does it fail, and what to do next; and its figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from imgcls.evaluation import calibration
from imgcls.evaluation.intervals import wilson_interval
from imgcls.report import charts, confusion_matrix, html_page
from imgcls.report.html_page import escape
from imgcls.storage import run_folder

PICTURE_PX = 160
MISTAKES, PAIRS, OF_PAIR, SUSPECTS = 12, 6, 6, 24  # how many are shown
TRUSTED = (0.9, 0.95, 0.99)  # shares of right answers for which the page tells the threshold


@dataclass
class EvaluatedSplit:
    """Images that a model did not learn from, and what it said of them.

    name: of the split or data. logits: float (N, K). labels: int (N,). source: position -> path or encoded bytes.
    explain: positions -> for each a picture in base64 of what the network saw, with what spoke for its answer; None
    where that cannot be told.
    """

    name: str
    classes: Sequence[str]
    paths: Sequence[str]
    labels: np.ndarray
    logits: np.ndarray
    source: Callable[[int], str | bytes]
    explain: Callable[[Sequence[int]], Sequence[str] | None] = lambda at: None

    @cached_property
    def predicted(self) -> np.ndarray:
        """Class of each image, int (N,)."""
        return self.logits.argmax(1)


@dataclass
class ReportContent:
    """What a page tells.

    numbers: a part of metrics.json, of the judged images. trust: as of calibration.json. fitted_on_these: whether its
    temperature was fitted on the judged images. suspects: rows of suspects.csv. source: path -> path or encoded bytes.
    facts: what was done, name -> text. tables: titles and rows of more numbers, the first row being the heads.
    """

    title: str
    subtitle: str
    numbers: Mapping
    judged: EvaluatedSplit
    trust: Mapping
    fitted_on_these: bool = False
    findings: Sequence[Mapping] = ()
    problems: Sequence[Mapping] = ()
    next_steps: Sequence[str] = ()
    history: Sequence[Mapping] = ()
    metric: str = "macro_f1"
    suspects: Sequence[Mapping] = ()
    source: Callable[[str], str | bytes] = str
    splits: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # class -> split -> images
    tables: Mapping[str, Sequence[Sequence]] = field(default_factory=dict)
    options: Mapping = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def calibrated(self) -> np.ndarray:
        """Probabilities of the judged images by a temperature that was fitted on others, (N, K)."""
        if self.fitted_on_these:
            return calibration.cross_fitted_probabilities(self.judged.logits, self.judged.labels)
        return calibration.probabilities(self.judged.logits, self.trust["temperature"])


def write_report(run: run_folder.RunFolder, content: ReportContent) -> None:
    """report.html, and its figures as PNG in figures/."""
    figures = _figures(content)
    for name, figure in figures.items():
        run.write_bytes(f"{run_folder.FIGURES}/{name}.png", charts.png(figure))
    run.write_text(run_folder.REPORT, render_report(content, figures))


def _figures(content: ReportContent) -> dict[str, charts.Figure]:
    judged = content.judged
    before, after = calibration.probabilities(judged.logits), content.calibrated
    curve = calibration.coverage_curve(after, judged.labels)
    bins = [calibration.reliability_bins(p, judged.labels) for p in (before, after)]
    found = {
        "curves": charts.curves(content.history, content.metric),
        "confusion_matrix": charts.confusion(content.numbers["confusion_matrix"], judged.classes),
        "reliability": charts.reliability(*bins) if any(bins) else None,
        "coverage": charts.coverage(curve) if curve else None,
    }
    return {name: figure for name, figure in found.items() if figure is not None}


def render_report(content: ReportContent, figures: Mapping[str, charts.Figure]) -> str:
    """The whole page as HTML."""
    drawn = {name: charts.svg(figure) for name, figure in figures.items() if name != "confusion_matrix"}
    sections = {
        "": _headline(content),
        "What to know": _findings(content),
        "Training": f'<div class="chart wide">{drawn["curves"]}</div>' if "curves" in drawn else "",
        "Which class is taken for which": confusion_matrix.render_confusion_matrix(
            content.numbers["confusion_matrix"], content.judged.classes
        ),
        "Classes": _classes(content),
        "Most confused": _pairs(content.judged),
        "Worst mistakes": _mistakes(content.judged, content.calibrated),
        "Labels to look at": _suspects(content.suspects, content.source),
        "How far to trust its confidence": _trust(content, drawn),
        **{title: html_page.table(rows) for title, rows in content.tables.items()},
        "Data": _data(content),
        "How it was made": _made(content),
    }
    parts = [f"<h2>{title}</h2>{body}" if title else body for title, body in sections.items() if body]
    return html_page.document(f"{content.title}: report", parts, _STYLE + confusion_matrix.STYLE)


def _headline(content: ReportContent) -> str:
    numbers, judged = content.numbers, content.judged
    low, high = numbers["accuracy_ci95"]
    small = [
        ("macro F1", numbers["macro_f1"], numbers.get("macro_f1_ci95")),
        ("balanced accuracy", numbers["balanced_accuracy"], numbers.get("balanced_accuracy_ci95")),
        ("top 5", numbers["top5_accuracy"] if len(judged.classes) > 5 else None, None),
        ("loss", numbers["loss"], None),
    ]
    shown = "".join(
        f"<div><b>{value:.3f}</b><span>{name}{f'<br>{ci[0]:.3f} to {ci[1]:.3f}' if ci else ''}</span></div>"
        for name, value, ci in small
        if value is not None
    )
    return (
        f"<h1>{escape(content.title)}</h1><p>{escape(content.subtitle)}</p>"
        f'<div class="numbers"><div class="main"><b>{numbers["accuracy"]:.3f}</b><span>accuracy on '
        f"{numbers['images']:,} {escape(judged.name)} images<br>95 % interval {low:.3f} to {high:.3f}</span></div>"
        f"{shown}</div>"
    )


def _findings(content: ReportContent) -> str:
    lines = [
        f'<li><span class="tag {e["severity"]}">{e["severity"]}: {escape(e["code"])}</span> {escape(e["evidence"])}. '
        f"{escape(e['advice'])}</li>"
        for e in content.findings
    ]
    lines += [
        f'<li><span class="tag {p["severity"]}">data: {escape(p["code"])}</span> {escape(p["message"])}. '
        f"{escape(p['advice'])}</li>"
        for p in content.problems
        if p["severity"] != "info"
    ]
    if not lines:
        lines = ["<li>Nothing went wrong that the rules know.</li>"]
    steps = "".join(f"<pre>{html_page.visible(step)}</pre>" for step in content.next_steps)
    return f"<ul>{''.join(lines)}</ul>{f'<h3>Next</h3>{steps}' if steps else ''}"


def _classes(content: ReportContent) -> str:
    matrix = np.asarray(content.numbers["confusion_matrix"])
    names = content.judged.classes
    rows = [["class", "images", "recall", "95 % interval", "precision", "F1", "most often taken for"]]
    for i, (name, of) in enumerate(content.numbers["per_class"].items()):
        n = of["support"]
        others = np.where(np.arange(len(names)) == i, 0, matrix[i])
        most = int(others.argmax())
        low, high = wilson_interval(int(matrix[i, i]), n) if n else (0.0, 1.0)
        interval = f"{low:.2f} to {high:.2f}" if n else "–"
        taken = f"{names[most]} ({others[most]})" if others[most] else ""
        rows.append([name, n, of["recall"], interval, of["precision"], of["f1"], taken])
    return html_page.table(rows)


def _pairs(judged: EvaluatedSplit) -> str:
    """Pictures of the pairs of classes that are confused most."""
    wrong = np.flatnonzero(judged.predicted != judged.labels)
    pairs: dict[tuple[int, int], list[int]] = {}
    for i in wrong:
        pairs.setdefault((int(judged.labels[i]), int(judged.predicted[i])), []).append(int(i))
    most = sorted(pairs.items(), key=lambda item: -len(item[1]))[:PAIRS]
    parts = []
    for (true, said), at in most:
        total = int((judged.labels == true).sum())
        figures = "".join(_figure(judged.source(i), judged.paths[i]) for i in at[:OF_PAIR])
        parts.append(
            f"<div><h3>{escape(judged.classes[true])} taken for {escape(judged.classes[said])}: "
            f"{len(at)} of {total}</h3>"
            f'<div class="sheet">{figures}</div></div>'
        )
    return f'<div class="charts pairs">{"".join(parts)}</div>' if parts else ""


def _mistakes(judged: EvaluatedSplit, p: np.ndarray) -> str:
    """Wrong answers of which the model was surest, with what spoke for them."""
    wrong = np.flatnonzero((judged.predicted != judged.labels) & np.isfinite(p).all(1))
    worst = [int(i) for i in wrong[np.argsort(-p[wrong].max(1), kind="stable")][:MISTAKES]]
    if not worst:
        return ""
    maps = judged.explain(worst)
    figures = []
    for place, i in enumerate(worst):
        pictures = html_page.picture(html_page.thumbnail(judged.source(i), PICTURE_PX))
        if maps is not None:
            pictures += html_page.picture(maps[place])
        said = judged.classes[judged.predicted[i]]
        figures.append(
            f"<figure>{pictures}<figcaption>{escape(judged.classes[judged.labels[i]])} called <b>{escape(said)}</b>, "
            f"{p[i].max():.2f} sure<br>{escape(judged.paths[i])}</figcaption></figure>"
        )
    legend = "" if maps is None else "<p>On the right what the network saw; bright is what spoke for its answer.</p>"
    return f'{legend}<div class="sheet{" double" if maps is not None else ""}">{"".join(figures)}</div>'


def _suspects(suspects: Sequence[Mapping], source: Callable[[str], str | bytes]) -> str:
    if not suspects:
        return ""
    figures = "".join(
        f"<figure>{html_page.picture(html_page.thumbnail(source(row['path']), PICTURE_PX))}"
        f"<figcaption>{escape(row['label'])}, or "
        f"<b>{escape(row['suggested'])}</b>?<br>{escape(row['path'])}</figcaption></figure>"
        for row in suspects[:SUSPECTS]
    )
    more = f"<p>and {len(suspects) - SUSPECTS} more</p>" if len(suspects) > SUSPECTS else ""
    return (
        f"<p>{len(suspects)} labels that models which did not learn these images doubt, the likeliest to be wrong "
        f"first: suspects.csv. Look at them, delete the rows that are right, and train again with "
        f'--exclude suspects.csv, or mend the folders.</p><div class="sheet">{figures}</div>{more}'
    )


def _trust(content: ReportContent, drawn: Mapping[str, str]) -> str:
    trust, judged = content.trust, content.judged
    p = content.calibrated
    rows = [["right answers wanted", "confidence from", "share answered", "right of these", "95 % interval"]]
    for share in TRUSTED:
        found = calibration.precision_threshold(p, judged.labels, share)
        reached = found["confidence"] is not None
        interval = f"{found['ci95'][0]:.3f} to {found['ci95'][1]:.3f}" if reached else "–"
        rows.append([f"{share:.0%}", found["confidence"], found["coverage"], found["precision"], interval])
    before = calibration.calibration_error(calibration.probabilities(judged.logits), judged.labels)
    after = calibration.calibration_error(p, judged.labels)
    words = ""
    if before is not None:
        words = (
            f"<p>Confidence differs from accuracy by {before:.3f} on average (ECE) as the network gives it, by "
            f"{after:.3f} once its logits are divided by {trust['temperature']:.2f}, which scripts/predict.py does.</p>"
        )
    figures = "".join(f"<div>{drawn[name]}</div>" for name in ("reliability", "coverage") if name in drawn)
    return f'{words}<div class="charts">{figures}</div>{html_page.table(rows)}'


def _data(content: ReportContent) -> str:
    if not content.splits:
        return ""
    names = [s for s in ("train", "validation", "test") if any(s in of for of in content.splits.values())]
    rows = [["class", *names], *([name, *(of.get(s, 0) for s in names)] for name, of in content.splits.items())]
    notes = "".join(
        f"<li>{escape(p['code'])}: {escape(p['message'])}</li>" for p in content.problems if p["severity"] == "info"
    )
    return html_page.table(rows) + (f"<ul>{notes}</ul>" if notes else "")


def _made(content: ReportContent) -> str:
    facts = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in content.facts.items()
    )
    options = "".join(f"<tr><td>{escape(k)}</td><td>{escape(str(v))}</td></tr>" for k, v in content.options.items())
    hidden = f"<details><summary>all options</summary><table>{options}</table></details>" if options else ""
    return f"<table>{facts}</table>{hidden}"


def _figure(source: str | bytes, caption: str) -> str:
    return html_page.figure(html_page.thumbnail(source, PICTURE_PX), caption)


def next_steps(run: run_folder.RunFolder) -> list[str]:
    """Commands that go on from a run folder."""
    return [
        f"python scripts/predict.py --run {run.path} new_photos --out answers.csv",
        f"python scripts/validate.py --run {run.path} --data other_photos",
        f"python scripts/train.py --model {run.path} --data more_photos --output_dir NEW",
    ]


_STYLE = """
th:last-child { width: auto } pre { overflow-x: auto; background: #8882; padding: 0.4rem 0.6rem; margin: 0.3rem 0 }
.numbers { display: flex; flex-wrap: wrap; gap: 0.6rem 2rem; margin: 1rem 0 } .numbers b { font-size: 1.4rem }
.numbers div { display: flex; flex-direction: column } .numbers span { font-size: 0.85rem; opacity: 0.85 }
.numbers .main b { font-size: 2.6rem; line-height: 1.1 }
svg { max-width: 100%; height: auto } .chart svg { min-width: 640px }
.charts > div { flex: 1 1 18rem; max-width: 26rem }
.pairs { gap: 0 1.5rem } .pairs > div { flex: 0 1 auto; max-width: none }
figure, figure img, figure div { width: 160px } figure img, figure div { height: 160px }
.double figure { width: 322px; } .double figure img, .double figure div { display: inline-block; width: 160px }
.double figure img + img { margin-left: 2px } figcaption { max-height: none; font-size: 0.78rem }
details table td { overflow-wrap: anywhere }
@media print { .wide { overflow: visible } details { display: none } h2, h3 { break-after: avoid }
  h2 + p { break-after: avoid } .matrix, .pairs > div, tr { break-inside: avoid } * { print-color-adjust: exact }
  body { max-width: none } }
@media (max-width: 480px) { .double figure { width: 100% } body { padding: 0.6rem }
  figure, figure img, figure div { width: 150px } figure img, figure div { height: 150px } }
"""
