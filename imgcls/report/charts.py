"""Figures of the report: PNG for a folder, SVG for a page, where text and lines take the page's colour."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import IO

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from imgcls.report.html_page import visible

INK = "#010203"  # a placeholder for the page's own colour
TRAIN, VALIDATION, THIRD = "#4f83cc", "#d9822b", "#5a9e4b"
MAX_NAMED = 40  # classes whose names fit next to a confusion matrix
MAX_NUMBERED = 25  # classes whose counts fit into its cells
MAX_NAME_LENGTH = 20
_STYLE: dict = {
    "font.size": 9,
    "font.family": "sans-serif",
    "svg.fonttype": "none",
    "svg.hashsalt": "imgcls",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "text.parse_math": False,
}


def svg(figure: Figure, name: str) -> str:
    """The figure as an <svg> element with the width and colour of its place in a page.

    name: added to every id, so that a page can hold several figures.
    """
    out = io.StringIO()
    _save(figure, out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = out.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<[^>]* id="|xlink:href="#|url\(#)', rf"\g<1>{name}-", text)
    return re.sub(r'<svg ([^>]*?)width="([\d.]+)pt" height="[\d.]+pt"', r'<svg \1style="max-width:\2pt"', text, count=1)


def png(figure: Figure) -> bytes:
    """The figure on white, 150 dots per inch."""
    out = io.BytesIO()
    _save(figure, out, format="png", dpi=150, facecolor="white")
    return out.getvalue()


def _save(figure: Figure, out: IO, **options) -> None:
    with rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the font does not have the letters of all languages
        figure.savefig(out, **options)


def curves(history: Sequence[Mapping], metric: str) -> Figure | None:
    """Losses, validation metrics and learning rate by epoch; None for a history without losses."""
    training = _points(history, "loss")
    evaluated = [entry for entry in history if "eval_loss" in entry]
    if not training and not evaluated:
        return None
    with rc_context(_STYLE):
        figure = Figure(figsize=(9, 2.7), layout="constrained")
        losses, metrics, rates = figure.subplots(1, 3)
        _line(losses, training, color=TRAIN, label="training (optimised)")
        validation = _points(evaluated, "eval_loss")
        _line(losses, validation, color=VALIDATION, marker="o", ms=3, label="validation (cross-entropy)")
        for name, colour in {metric: VALIDATION, "accuracy": THIRD}.items():
            points = _points(evaluated, f"eval_{name}")
            _line(metrics, points, color=colour, marker="o", ms=3, label=name.replace("_", " "))
        _line(rates, [(e["epoch"], e["learning_rate"]) for e in history if "learning_rate" in e], color=TRAIN)
        for axes, title in ((losses, "loss"), (metrics, "validation"), (rates, "learning rate")):
            axes.set(title=title, xlabel="epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        for axes in (losses, metrics):
            if axes.lines:
                axes.legend(fontsize=8)
    return figure


def _points(entries: Sequence[Mapping], key: str) -> list[tuple[float, float]]:
    """Epoch and value of the entries whose value is a finite number."""
    return [(entry["epoch"], entry[key]) for entry in entries if _is_finite(entry.get(key))]


def _line(axes: Axes, points: Sequence[tuple[float, float]], **style) -> None:
    if points:
        axes.plot(*zip(*points, strict=True), **style)


def reliability(before: Sequence[Mapping], after: Sequence[Mapping]) -> Figure:
    """Accuracy against confidence, uncalibrated and calibrated; see `calibration.reliability_bins`."""
    with rc_context(_STYLE):
        figure = Figure(figsize=(4.2, 3.4), layout="constrained")
        axes = figure.subplots()
        axes.plot((0, 1), (0, 1), color=INK, lw=0.8, ls=":")
        for bins, colour, name in ((before, VALIDATION, "uncalibrated"), (after, TRAIN, "calibrated")):
            if not bins:
                continue
            confidence, accuracy = [b["confidence"] for b in bins], [b["accuracy"] for b in bins]
            errors = [[b["accuracy"] - b["ci95"][0] for b in bins], [b["ci95"][1] - b["accuracy"] for b in bins]]
            axes.errorbar(
                confidence,
                accuracy,
                yerr=np.maximum(errors, 0),
                color=colour,
                marker="o",
                ms=3,
                lw=1,
                elinewidth=0.7,
                label=name,
            )
        axes.set(title="reliability", xlabel="confidence", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02))
        axes.legend(fontsize=8)
    return figure


def coverage(curve: Sequence[tuple[float, float, float]]) -> Figure:
    """Accuracy against the fraction of images above a threshold; curve: see `calibration.coverage_curve`."""
    with rc_context(_STYLE):
        figure = Figure(figsize=(4.2, 3.4), layout="constrained")
        axes = figure.subplots()
        _, fraction, accuracy = zip(*curve, strict=True)
        axes.plot(fraction, accuracy, color=TRAIN, drawstyle="steps-post")
        axes.set(
            title="accuracy of the most confident predictions",
            xlabel="fraction of images, most confident first",
            ylabel="accuracy",
            xlim=(0, 1.02),
        )
    return figure


def confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> Figure:
    """Each true class (row): the fraction that is predicted as each class (column)."""
    counts = np.asarray(matrix, float)
    rates = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    k = len(classes)
    side = min(12.0, 2.2 + 0.32 * k if k <= MAX_NAMED else 7.0)
    with rc_context(_STYLE):
        figure = Figure(figsize=(side, side), layout="constrained")
        axes = figure.subplots()
        axes.imshow(np.where(rates > 0, rates, np.nan), cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        if k <= MAX_NAMED:
            names = [_short(name) for name in classes]
            axes.set_xticks(range(k), names, rotation=90)
            axes.set_yticks(range(k), names)
        if k <= MAX_NUMBERED:
            for i, j in zip(*np.nonzero(counts), strict=True):
                colour = "white" if rates[i, j] > 0.6 else "#102030"
                axes.text(j, i, f"{counts[i, j]:.0f}", ha="center", va="center", fontsize=8, color=colour)
        axes.set(xlabel="predicted", ylabel="true")
    return figure


def _short(name: str) -> str:
    text = visible(name)
    return text if len(text) <= MAX_NAME_LENGTH else f"{text[: MAX_NAME_LENGTH - 1]}…"


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
