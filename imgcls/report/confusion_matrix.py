"""A confusion matrix as part of a page, readable from 2 to some hundred classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from imgcls.report import html_page
from imgcls.report.html_page import escape

MOST_CELLS = 25  # classes up to which the confusion matrix is a table with its numbers
STYLE = """
.matrix { width: auto; border-collapse: separate; border-spacing: 1px } .matrix tr + tr td { border: 0 }
.matrix td { text-align: center; min-width: 1.9rem; height: 1.7rem; vertical-align: middle; font-size: 0.8rem;
  padding: 0 0.2rem } .matrix th { font-weight: 400; font-size: 0.8rem; text-align: right; width: auto;
  max-width: 12rem; white-space: nowrap; overflow: hidden; text-overflow: ellipsis }
.matrix .up { vertical-align: bottom; height: 7rem; padding: 0 } .matrix .up div { writing-mode: vertical-rl;
  transform: rotate(180deg); margin: auto; max-height: 7rem; overflow: hidden; text-overflow: ellipsis }
"""


def render_confusion_matrix(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> str:
    """Rows are true classes; up to 25 a table with its counts, above a picture with a word on each cell."""
    counts = np.asarray(matrix)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    if len(classes) > MOST_CELLS:
        return _cells(counts, shares, classes)
    head = "".join(f'<th class="up"><div>{escape(name)}</div></th>' for name in classes)
    rows = []
    for i, name in enumerate(classes):
        cells = "".join(
            f'<td style="background:rgb({_HIT if i == j else _MISS} / {shares[i, j]:.2f})" '
            f'title="{html_page.visible(name)} called {html_page.visible(classes[j])}: '
            f'{counts[i, j]} of {counts[i].sum()}">'
            f"{counts[i, j] or ''}</td>"
            for j in range(len(classes))
        )
        rows.append(f"<tr><th>{escape(name)}</th>{cells}</tr>")
    return (
        "<p>A row for each true class, a column for each answer.</p>"
        f'<div class="wide"><table class="matrix"><tr><th></th>{head}</tr>{"".join(rows)}</table></div>'
    )


_HIT, _MISS = "79 131 204", "217 130 43"


def _cells(counts: np.ndarray, shares: np.ndarray, classes: Sequence[str]) -> str:
    side, k = (12, len(classes)) if len(classes) <= 60 else (6, len(classes))
    rects = "".join(
        f'<rect x="{j * side}" y="{i * side}" width="{side}" height="{side}" fill="rgb({_HIT if i == j else _MISS})" '
        f'fill-opacity="{0.15 + 0.85 * shares[i, j]:.2f}"><title>{html_page.visible(classes[i])} called '
        f"{html_page.visible(classes[j])}: {counts[i, j]} of {counts[i].sum()}</title></rect>"
        for i, j in zip(*np.nonzero(counts), strict=True)
    )
    size = k * side
    return (
        "<p>A row for each true class, a column for each answer, in the order of the table below; blue is right. Point "
        "at a cell for its names and counts.</p>"
        f'<div class="wide"><svg viewBox="0 0 {size} {size}" style="width:{size}px;min-width:{min(size, 600)}px">'
        f'<rect width="{size}" height="{size}" fill="none" stroke="currentColor"/>{rects}</svg></div>'
    )
