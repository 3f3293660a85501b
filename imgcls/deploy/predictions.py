"""Logits of images -> what is said of each: its class, how sure that is, and whether it is sure enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from imgcls.data import decoding
from imgcls.errors import ImageError
from imgcls.evaluation.calibration import probabilities


@dataclass(frozen=True)
class PredictionFormatter:
    """How a model's logits are put into words.

    temperature: of `calibration`. threshold: confidence below which an answer is unsure. top_k: classes that are named.
    """

    classes: Sequence[str]
    temperature: float = 1.0
    threshold: float = 0.0
    top_k: int = 1

    @property
    def columns(self) -> tuple[str, ...]:
        """Of each row: path, the class and its confidence, whether it is unsure, more classes, and what was wrong."""
        more = [f"{name}_{k}" for k in range(2, self.top_k + 1) for name in ("predicted", "confidence")]
        return ("path", "predicted", "confidence", "unsure", *more, "error")

    def rows(self, paths: Sequence[str], logits: np.ndarray, broken: Mapping[int, ImageError]) -> list[dict]:
        """A row for each path. logits: (n, K) of those that are not broken. broken: place among the paths -> why."""
        sure = iter(probabilities(logits, self.temperature)) if len(logits) else iter(())
        return [
            self._without(path, decoding.short_reason(broken[place]))
            if place in broken
            else self._row(path, next(sure))
            for place, path in enumerate(paths)
        ]

    def line(self, row: Mapping[str, object]) -> str:
        """A row for people."""
        if row["error"]:
            return f"{row['path']}  could not be read: {row['error']}"
        names = ["", *(f"_{k}" for k in range(2, self.top_k + 1))]
        named = "  ".join(f"{row[f'predicted{k}']} {row[f'confidence{k}']:.3f}" for k in names)
        return f"{row['path']}  {named}{'  unsure' if row['unsure'] else ''}"

    def _row(self, path: str, p: np.ndarray) -> dict:
        if not np.isfinite(p).all():
            return self._without(path, "the model's output is not a number")
        best = np.argsort(-p, kind="stable")[: self.top_k]
        row = {"path": path, "predicted": self.classes[best[0]], "confidence": _rounded(p[best[0]]),
               "unsure": int(p[best[0]] < self.threshold)}  # fmt: skip
        for k, i in enumerate(best[1:], 2):
            row |= {f"predicted_{k}": self.classes[i], f"confidence_{k}": _rounded(p[i])}
        return {column: row.get(column, "") for column in self.columns}

    def _without(self, path: str, reason: str) -> dict:
        return {column: "" for column in self.columns} | {"path": path, "error": reason}  # noqa: C420


def _rounded(p: float) -> float:
    return round(float(p), 6)


def prediction_summary(counts: Mapping[str, int], known: int, out: str | None) -> str:
    """One line on what was said. counts: "sure", "unsure" and "broken" images; known: answered by earlier commands."""
    total = sum(counts.values())
    parts = [f"{total:,} image{'' if total == 1 else 's'}{f' more, after {known:,}' if known else ''}"]
    parts += [f"{counts[kind]:,} {words}" for kind, words in _KINDS.items() if counts.get(kind)]
    return ", ".join(parts) + (f": {out}" if out else "")


_KINDS = {"unsure": "unsure", "broken": "that could not be read"}
