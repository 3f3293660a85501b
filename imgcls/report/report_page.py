"""The report of a training or an evaluation: how good the model is, where it fails, and what to do next."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from imgcls.evaluation import calibration
from imgcls.evaluation.held_out import HeldOutPredictions
from imgcls.evaluation.intervals import wilson_interval
from imgcls.report import charts, confusion_matrix, html_page
from imgcls.report.html_page import Cell
from imgcls.storage import run_folder
from imgcls.system import cpu

PICTURE_PX = 160
MAX_MISTAKES, MAX_PAIRS, MAX_PER_PAIR, MAX_SUSPECTS = 12, 6, 6, 24  # how many pictures the page has
TARGET_PRECISIONS = (0.9, 0.95, 0.99)  # the table of confidence has a row for each


@dataclass(frozen=True)
class ReportImages:
    """Access to pixels.

    open_source: path -> path of the file or its encoded bytes. heat_maps: paths and class indices -> for each a JPEG
    in base64 of what the network sees, with the areas that led to this class bright; None if they are unavailable.
    """

    open_source: Callable[[str], str | bytes]
    heat_maps: Callable[[Sequence[str], Sequence[int]], Sequence[str] | None] = lambda paths, targets: None

    def thumbnails(self, paths: Sequence[str]) -> list[str | None]:
        """Small JPEGs in base64; None for an image that cannot be read."""
        with ThreadPoolExecutor(cpu.available_cores()) as pool:
            return list(pool.map(lambda path: html_page.thumbnail(self.open_source(path), PICTURE_PX), paths))


@dataclass(frozen=True)
class ReportedEvaluation:
    """Numbers of a model on images that it was not trained on.

    numbers: the part of metrics.json for these images. calibrated_on: whether the temperature was fitted on them.
    suspects: rows of suspects.csv. tables: title -> rows of further numbers, of which the first holds column names.
    """

    predictions: HeldOutPredictions
    numbers: Mapping
    temperature: float
    calibrated_on: bool = False
    suspects: Sequence[Mapping[str, str]] = ()
    tables: Mapping[str, Sequence[Sequence]] = field(default_factory=dict)

    @cached_property
    def probabilities(self) -> np.ndarray:
        """Probabilities (N, K) by a temperature that was fitted on other images."""
        logits, labels = self.predictions.logits, self.predictions.labels
        if self.calibrated_on:
            return calibration.cross_fitted_probabilities(logits, labels)
        return calibration.probabilities(logits, self.temperature)


@dataclass(frozen=True)
class TrainingRecord:
    """What a report of a training has beyond that of an evaluation.

    history: see history.jsonl. metric: that chose the best epoch. issues: see check.json. splits: class -> split ->
    number of images. options: see options.yaml.
    """

    history: Sequence[Mapping] = ()
    metric: str = "accuracy"
    issues: Sequence[Mapping] = ()
    splits: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    options: Mapping = field(default_factory=dict)


@dataclass(frozen=True)
class ReportContent:
    """Everything that the page is made from.

    run: path of the run folder. findings: see diagnosis.json. facts: how the numbers came about, name -> text.
    training: None for the report of an evaluation.
    """

    run: Path
    subtitle: str
    evaluation: ReportedEvaluation
    images: ReportImages
    findings: Sequence[Mapping] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    training: TrainingRecord | None = None

    @property
    def title(self) -> str:
        """The run's name, and that of the images for an evaluation."""
        return self.run.name if self.training else f"{self.run.name} on {self.evaluation.predictions.name}"


def write_report(folder: run_folder.RunFolder, content: ReportContent) -> None:
    """Write report.html, and its figures as PNG in figures/."""
    figures = _figures(content)
    for name, figure in figures.items():
        folder.write_bytes(f"{run_folder.FIGURES}/{name}.png", charts.png(figure))
    folder.write_text(run_folder.REPORT, render_report(content, figures))


def _figures(content: ReportContent) -> dict[str, Figure]:
    evaluation, training = content.evaluation, content.training
    predictions = evaluation.predictions
    before, after = calibration.probabilities(predictions.logits), evaluation.probabilities
    curve = calibration.coverage_curve(after, predictions.labels)
    bins = [calibration.reliability_bins(p, predictions.labels) for p in (before, after)]
    figures = {
        "curves": charts.curves(training.history, training.metric) if training else None,
        "confusion_matrix": charts.confusion(evaluation.numbers["confusion_matrix"], predictions.classes),
        "reliability": charts.reliability(*bins) if any(bins) else None,
        "coverage": charts.coverage(curve) if curve else None,
    }
    return {name: figure for name, figure in figures.items() if figure is not None}


def render_report(content: ReportContent, figures: Mapping[str, Figure]) -> str:
    """The whole page as HTML. figures: name -> figure, of which confusion_matrix is drawn as a table instead."""
    evaluation, training = content.evaluation, content.training or TrainingRecord()
    predictions = evaluation.predictions
    names = ("curves", "reliability", "coverage")
    return html_page.render(
        "report.html",
        title=f"{content.title}: report",
        heading=content.title,
        subtitle=content.subtitle,
        run=str(content.run),
        training=content.training is not None,
        headline=_headline(evaluation),
        findings=_findings(content.findings, training.issues),
        charts={name: Markup(charts.svg(figures[name], name)) if name in figures else None for name in names},
        matrix=confusion_matrix.cells(evaluation.numbers["confusion_matrix"], predictions.classes),
        class_rows=_class_rows(evaluation),
        pairs=_pairs(predictions, content.images),
        mistakes=_mistakes(evaluation, content.images),
        suspects=_suspects(evaluation.suspects, content.images),
        suspect_count=len(evaluation.suspects),
        confidence=_confidence(evaluation),
        tables=evaluation.tables,
        data_rows=_data_rows(training.splits),
        notes=[_issue(issue) for issue in training.issues if issue["severity"] == "info"],
        details=content.facts.items(),
        options=training.options.items(),
    )


def _headline(evaluation: ReportedEvaluation) -> dict:
    numbers = evaluation.numbers
    others = [
        ("macro F1", numbers["macro_f1"], numbers.get("macro_f1_ci95")),
        ("balanced accuracy", numbers["balanced_accuracy"], numbers.get("balanced_accuracy_ci95")),
        ("top-5 accuracy", numbers["top5_accuracy"] if len(evaluation.predictions.classes) > 5 else None, None),
        ("loss", numbers["loss"], None),
    ]
    return {
        "name": evaluation.predictions.name,
        "images": numbers["images"],
        "accuracy": numbers["accuracy"],
        "interval": numbers["accuracy_ci95"],
        "others": [entry for entry in others if entry[1] is not None],
    }


def _findings(findings: Sequence[Mapping], issues: Sequence[Mapping]) -> list[dict]:
    """Findings about the training, then those about the data that are more than notes."""
    entries = [
        {
            "severity": entry["severity"],
            "label": f"{entry['severity']}: {entry['code']}",
            "message": entry["evidence"],
            "advice": entry["advice"],
        }
        for entry in findings
    ]
    return entries + [_issue(issue) for issue in issues if issue["severity"] != "info"]


def _issue(issue: Mapping) -> dict:
    """A data issue as an entry of a list; notes are listed without the word "data"."""
    label = issue["code"] if issue["severity"] == "info" else f"data: {issue['code']}"
    return {**issue, "label": label}


def _class_rows(evaluation: ReportedEvaluation) -> list[list]:
    matrix = np.asarray(evaluation.numbers["confusion_matrix"])
    classes = evaluation.predictions.classes
    rows: list[list] = [["class", "images", "recall", "95 % interval", "precision", "F1", "most often confused with"]]
    for i, (name, scores) in enumerate(evaluation.numbers["per_class"].items()):
        images = scores["support"]
        ends = wilson_interval(int(matrix[i, i]), images) if images else None
        errors = np.where(np.arange(len(classes)) == i, 0, matrix[i])
        most = int(errors.argmax())
        rows.append([
            name,
            images,
            scores["recall"],
            _interval_cell(ends, digits=2),
            scores["precision"],
            scores["f1"],
            f"{classes[most]} ({errors[most]})" if errors[most] else "",
        ])  # fmt: skip
    return rows


def _interval_cell(ends: Sequence[float] | None, digits: int = 3) -> Cell:
    return Cell("–", -1) if ends is None else Cell(html_page.interval(ends, digits), ends[0])


def _pairs(predictions: HeldOutPredictions, images: ReportImages) -> list[dict]:
    """The pairs of classes that are confused most often, with some of the images."""
    confused: dict[tuple[int, int], list[int]] = {}
    for i in np.flatnonzero(predictions.predicted != predictions.labels).tolist():
        confused.setdefault((int(predictions.labels[i]), int(predictions.predicted[i])), []).append(i)
    most = sorted(confused.items(), key=lambda item: -len(item[1]))[:MAX_PAIRS]
    pairs = []
    for (true, predicted), indices in most:
        paths = [predictions.paths[i] for i in indices[:MAX_PER_PAIR]]
        pairs.append({
            "true": predictions.classes[true],
            "predicted": predictions.classes[predicted],
            "count": len(indices),
            "total": int((predictions.labels == true).sum()),
            "images": [
                {"path": path, "encoded": encoded}
                for path, encoded in zip(paths, images.thumbnails(paths), strict=True)
            ],
        })  # fmt: skip
    return pairs


def _mistakes(evaluation: ReportedEvaluation, images: ReportImages) -> list[dict]:
    """Wrong predictions with the highest confidence, with heat maps of the wrong class if they are available."""
    predictions, p = evaluation.predictions, evaluation.probabilities
    wrong = np.flatnonzero((predictions.predicted != predictions.labels) & np.isfinite(p).all(1))
    worst: list[int] = wrong[np.argsort(-p[wrong].max(1), kind="stable")][:MAX_MISTAKES].tolist()
    paths = [predictions.paths[i] for i in worst]
    maps = images.heat_maps(paths, predictions.predicted[worst].tolist()) if paths else None
    return [
        {
            "path": path,
            "true": predictions.classes[predictions.labels[i]],
            "predicted": predictions.classes[predictions.predicted[i]],
            "confidence": p[i].max(),
            "encoded": encoded,
            "heat_map": heat_map,
        }
        for i, path, encoded, heat_map in zip(
            worst, paths, images.thumbnails(paths), maps or [None] * len(paths), strict=True
        )
    ]


def _suspects(suspects: Sequence[Mapping[str, str]], images: ReportImages) -> list[dict]:
    most = suspects[:MAX_SUSPECTS]
    thumbnails = images.thumbnails([row["path"] for row in most])
    return [{**row, "encoded": encoded} for row, encoded in zip(most, thumbnails, strict=True)]


def _confidence(evaluation: ReportedEvaluation) -> dict:
    """Calibration error, and for some target precisions the confidence from which on it is reached."""
    predictions, p = evaluation.predictions, evaluation.probabilities
    rows: list[list] = [["target precision", "confidence from", "fraction of images", "precision", "95 % interval"]]
    for target in TARGET_PRECISIONS:
        threshold = calibration.precision_threshold(p, predictions.labels, target)
        rows.append([
            Cell(f"{100 * target:g} %", target),
            threshold["confidence"],
            threshold["coverage"],
            threshold["precision"],
            _interval_cell(threshold["ci95"]),
        ])  # fmt: skip
    raw = calibration.probabilities(predictions.logits)
    return {
        "temperature": evaluation.temperature,
        "error": calibration.calibration_error(raw, predictions.labels),
        "calibrated_error": calibration.calibration_error(p, predictions.labels),
        "rows": rows,
    }


def _data_rows(splits: Mapping[str, Mapping[str, int]]) -> list[list]:
    """Number of images by class and split; empty without any."""
    if not splits:
        return []
    names = [name for name in ("train", "validation", "test") if any(name in counts for counts in splits.values())]
    rows = [[label, *(counts.get(name, 0) for name in names)] for label, counts in splits.items()]
    return [["class", *names], *rows]
