"""Numbers -> figures, as PNG for a folder and as SVG for a page, whose text takes the page's colour."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

INK = "#010203"  # stands for the page's own colour
TRAIN, VALIDATION, THIRD = "#4f83cc", "#d9822b", "#5a9e4b"
MOST_NAMED = 40  # classes whose names fit beside a confusion matrix
_STYLE = {
    "font.size": 9, "font.family": "sans-serif", "svg.fonttype": "none", "svg.hashsalt": "imgcls",
    "axes.spines.top": False, "axes.spines.right": False, "figure.facecolor": "none", "axes.facecolor": "none",
    "savefig.facecolor": "none", "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK,
    "xtick.color": INK, "ytick.color": INK, "legend.frameon": False, "text.parse_math": False,
}  # fmt: skip


def svg(figure: Figure) -> str:
    """The figure as an <svg> element that follows the page's width and colour."""
    out = io.StringIO()
    _save(figure, out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = out.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return re.sub(r'<svg ([^>]*?)width="([\d.]+)pt" height="[\d.]+pt"', r'<svg \1style="max-width:\2pt"', text, count=1)


def png(figure: Figure) -> bytes:
    """The figure on white, 150 dots an inch."""
    out = io.BytesIO()
    _save(figure, out, format="png", dpi=150, facecolor="white")
    return out.getvalue()


def _save(figure: Figure, out: io.IOBase, **options) -> None:
    with rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the font knows not all of the world's names
        figure.savefig(out, **options)


def curves(history: Sequence[Mapping], metric: str) -> Figure | None:
    """Loss of training and validation, the validation metric, and the learning rate, by epoch; None without any."""
    losses = [(e["epoch"], e["loss"]) for e in history if _finite(e.get("loss"))]
    seen = [e for e in history if "eval_loss" in e]
    if not losses and not seen:
        return None
    with rc_context(_STYLE):
        figure = Figure(figsize=(9, 2.7), layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        if losses:
            left.plot(*zip(*losses, strict=True), color=TRAIN, label="training (what is optimised)")
        points = [(e["epoch"], e["eval_loss"]) for e in seen if _finite(e["eval_loss"])]
        if points:
            left.plot(
                *zip(*points, strict=True), color=VALIDATION, marker="o", ms=3, label="validation (cross-entropy)"
            )
        if left.lines:
            left.legend(fontsize=8)
        for name, colour in {metric: VALIDATION, "accuracy": THIRD}.items():
            points = [(e["epoch"], e[f"eval_{name}"]) for e in seen if _finite(e.get(f"eval_{name}"))]
            if points:
                middle.plot(*zip(*points, strict=True), color=colour, marker="o", ms=3, label=name.replace("_", " "))
        if middle.lines:
            middle.legend(fontsize=8)
        rates = [(e["epoch"], e["learning_rate"]) for e in history if "learning_rate" in e]
        if rates:
            right.plot(*zip(*rates, strict=True), color=TRAIN)
        for axes, title in ((left, "loss"), (middle, "validation"), (right, "learning rate")):
            axes.set(title=title, xlabel="epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    return figure


def reliability(before: Sequence[Mapping], after: Sequence[Mapping]) -> Figure:
    """Accuracy against confidence, as given and calibrated; bins see `calibration.reliability_bins`."""
    with rc_context(_STYLE):
        figure = Figure(figsize=(4.2, 3.4), layout="constrained")
        axes = figure.subplots()
        axes.plot((0, 1), (0, 1), color=INK, lw=0.8, ls=":")
        for bins, colour, name in ((before, VALIDATION, "as it is"), (after, TRAIN, "calibrated")):
            if not bins:
                continue
            x, y = [b["confidence"] for b in bins], [b["accuracy"] for b in bins]
            ends = [[b["accuracy"] - b["ci95"][0] for b in bins], [b["ci95"][1] - b["accuracy"] for b in bins]]
            axes.errorbar(
                x, y, yerr=np.maximum(ends, 0), color=colour, marker="o", ms=3, lw=1, elinewidth=0.7, label=name
            )
        axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02))
        axes.legend(fontsize=8)
    return figure


def coverage(curve: Sequence[tuple[float, float, float]]) -> Figure:
    """Accuracy of the images that are answered, against their share; curve see `calibration.coverage_curve`."""
    with rc_context(_STYLE):
        figure = Figure(figsize=(4.2, 3.4), layout="constrained")
        axes = figure.subplots()
        _, share, accuracy = zip(*curve, strict=True)
        axes.plot(share, accuracy, color=TRAIN, drawstyle="steps-post")
        axes.set(xlabel="share of images answered, the surest ones", ylabel="accuracy of these", xlim=(0, 1.02))
    return figure


def confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> Figure:
    """Share of each true class (row) that is called each class (column)."""
    counts = np.asarray(matrix, float)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    k = len(classes)
    side = min(12.0, 2.2 + 0.32 * k if k <= MOST_NAMED else 7.0)
    with rc_context(_STYLE):
        figure = Figure(figsize=(side, side), layout="constrained")
        axes = figure.subplots()
        axes.imshow(np.where(shares > 0, shares, np.nan), cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        if k <= MOST_NAMED:
            names = [_short(name) for name in classes]
            axes.set_xticks(range(k), names, rotation=90)
            axes.set_yticks(range(k), names)
        if k <= 25:
            for i, j in zip(*np.nonzero(counts), strict=True):
                axes.text(j, i, f"{counts[i, j]:.0f}", ha="center", va="center", fontsize=8,
                          color="white" if shares[i, j] > 0.6 else "#102030")  # fmt: skip
        axes.set(xlabel="predicted", ylabel="true")
    return figure


def _short(name: str) -> str:
    visible = "".join(c if c.isprintable() else repr(c)[1:-1] for c in name)
    return visible if len(visible) <= 20 else f"{visible[:19]}…"


def _finite(value) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
