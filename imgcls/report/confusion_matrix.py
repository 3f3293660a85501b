"""Counts of true and predicted classes as the cells of a drawn confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MAX_TABLE = 25  # classes up to which the matrix is a table with its counts
CORRECT, WRONG = "79 131 204", "217 130 43"  # red, green, blue


def cells(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> dict:
    """What confusion_matrix.html draws: {"classes", "rows", "cells", "side", "size"}.

    matrix: counts (K, K) by true and predicted class. rows: all cells of a table, None for more than `MAX_TABLE`
    classes. cells: those that are not empty, for squares of `side` pixels in a drawing of `size`.
    """
    counts = np.asarray(matrix)
    rates = counts / np.maximum(counts.sum(1, keepdims=True), 1)

    def cell(i: int, j: int) -> dict:
        return {
            "row": i,
            "column": j,
            "count": int(counts[i, j]),
            "rate": rates[i, j],
            "colour": CORRECT if i == j else WRONG,
            "title": f"{classes[i]} predicted as {classes[j]}: {counts[i, j]} of {counts[i].sum()}",
        }

    k = len(classes)
    side = 12 if k <= 60 else 6
    rows = [[cell(i, j) for j in range(k)] for i in range(k)] if k <= MAX_TABLE else None
    filled = [cell(int(i), int(j)) for i, j in zip(*np.nonzero(counts), strict=True)]
    return {"classes": classes, "rows": rows, "cells": filled, "side": side, "size": k * side}
