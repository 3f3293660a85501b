"""A comparison of finished runs: data, model, accuracy, size and latency, and the options that differ."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from imgcls.data.location import DEFAULT_FOLDER, resolve_location
from imgcls.dataloading.preprocessing import evaluation_pixels
from imgcls.errors import ModelError, RunError
from imgcls.models import inference
from imgcls.models.latency import median_latencies_ms
from imgcls.report import html_page
from imgcls.report.html_page import Cell
from imgcls.storage import run_folder
from imgcls.storage.run_folder import RunFolder

log = logging.getLogger(__name__)

TIMED = 10  # images, of which the median is reported
IN_TABLE = ("data", "model", "tune", "image_px", "aspect")  # options that the table covers


@dataclass(frozen=True)
class Comparison:
    """Finished runs next to each other.

    rows: see `comparison_row`. differing: options that are not the same in all runs, name -> the value in each.
    comparable: whether all were evaluated on the same images with the same labels.
    """

    rows: Sequence[Mapping]
    differing: Mapping[str, Sequence]
    comparable: bool

    def as_dict(self) -> dict:
        """For JSON."""
        return {
            "runs": self.rows,
            "differing_options": self.differing,
            "judged_by_the_same_images": self.comparable,
        }


def compare_runs(names: Sequence[str], device: torch.device) -> Comparison:
    """Compare run folders, best accuracy first. Skips those that are not finished or whose model cannot be loaded.

    Raises RunError when none is left.
    """
    entries = []
    for name in names:
        run = RunFolder(name)
        try:
            entries.append((comparison_row(run, device), run))
        except (RunError, ModelError) as error:
            log.warning("skipped: %s", error)
    if not entries:
        raise RunError("Expected finished runs to compare, got none. Give run folders, such as runs/*.")
    entries.sort(key=lambda entry: -entry[0]["accuracy"])
    rows, runs = zip(*entries, strict=True)
    return Comparison(rows, differing_options(runs), are_comparable(rows, runs))


def comparison_row(run: RunFolder, device: torch.device) -> dict:
    """A row of the table. Raises RunError when the folder holds no finished run.

    The accuracy is that of the folds if there are any, else of the test split, else of the validation split.
    latency_ms: from pixels to logits on `device`, one image at a time, median.
    """
    metrics = run.read_json(run_folder.METRICS)
    if metrics is None or "train" not in metrics:
        raise RunError(
            f"Expected a finished run in {run.path}, got no {run_folder.METRICS} of a training. Finish the training."
        )
    options = run.read_options() or {}
    split = "cross_validation" if metrics.get("cross_validation") else "test" if metrics["test"] else "validation"
    part = metrics[split]
    network, processor = inference.load_model(run.path, device)
    sample = evaluation_pixels(_gray(), processor)[None].to(device)
    return {
        "run": str(run.path),
        "data": resolve_location(options.get("data")).name,
        "model": Path(metrics["model"]).name,
        "tune": options.get("tune") if metrics["initialised"] == "pretrained" else "from scratch",
        "input_px": sample.shape[-1],
        "trained_on": metrics["train"]["images"],
        "judged_by": split.replace("_", "-"),
        "images": part["images"],
        "accuracy": part["accuracy"],
        "accuracy_ci95": part["accuracy_ci95"],
        "macro_f1": part["macro_f1"],
        "loss": part["loss"],
        "training_s": metrics["train"]["seconds"],
        "megabytes": (run / run_folder.WEIGHTS).stat().st_size / 1e6,
        "latency_ms": _latency_ms(network, sample),
    }


def _gray() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((64, 64, 3), 118, np.uint8)).save(out, "PNG")
    return out.getvalue()


@torch.inference_mode()
def _latency_ms(network: torch.nn.Module, sample: torch.Tensor) -> float:
    calls = {"network": lambda: network(pixel_values=sample).logits.cpu()}
    return median_latencies_ms(calls, repeats=TIMED)["network"]


def are_comparable(rows: Sequence[Mapping], runs: Sequence[RunFolder]) -> bool:
    """Whether all runs were evaluated on the same images with the same labels."""
    evaluated = set()
    for row, run in zip(rows, runs, strict=True):
        splits = {"cross-validation": ("train", "validation")}.get(row["judged_by"], (row["judged_by"],))
        images = frozenset((r["path"], r["label"]) for r in run.read_csv(run_folder.SPLIT) if r["split"] in splits)
        evaluated.add((_data(run.read_options() or {}), images))
    return len(evaluated) == 1


def _data(options: Mapping) -> str:
    """The data of a run, as an absolute path if it is on this disk."""
    name = options.get("data") or DEFAULT_FOLDER
    path = Path(name).expanduser()
    return str(path.resolve()) if path.exists() else name


def differing_options(runs: Sequence[RunFolder]) -> dict[str, list]:
    """Options that are not the same in all runs, name -> the value in each."""
    every = [run.read_options() or {} for run in runs]
    names = dict.fromkeys(name for options in every for name in options)
    values = {name: [options.get(name) for options in every] for name in names if name not in _NOT_LISTED}
    return {name: row for name, row in values.items() if any(value != row[0] for value in row)}


_NOT_LISTED = frozenset(("run_name", "logging_dir", *IN_TABLE))


def comparison_table(comparison: Comparison) -> str:
    """For the terminal: one line per run, then the options that differ."""
    rows = comparison.rows
    width = max(len("run"), *(len(row["run"]) for row in rows)) + 2
    lines = [
        f"{'run':<{width}}{'model':<20}{'tune':<16}{'px':>4}{'evaluated on':>18}{'accuracy':>10}  {'95 % interval':<16}"
        f"{'macro F1':>8}{'train s':>9}{'MB':>8}{'ms':>8}"
    ]
    for row in rows:
        images = f"{row['images']:,} {row['judged_by']}"
        lines.append(
            f"{row['run']:<{width}}{row['model'][:18]:<20}{row['tune'] or '':<16}{row['input_px']:>4}{images:>18}"
            f"{row['accuracy']:>10.3f}  {html_page.interval(row['accuracy_ci95']):<16}{row['macro_f1']:>8.3f}"
            f"{row['training_s']:>9.0f}{row['megabytes']:>8.1f}{row['latency_ms']:>8.1f}"
        )
    if not comparison.comparable:
        lines += ["", NOT_COMPARABLE]
    if comparison.differing:
        lines += ["", "options that differ, in the same order"]
        lines += [f"  {name}: {', '.join(map(str, values))}" for name, values in comparison.differing.items()]
    return "\n".join(lines)


NOT_COMPARABLE = (
    "The runs were evaluated on different images. Compare them on the same ones: scripts/validate.py --run A --data "
    "FOLDER --compare B."
)


def render_comparison(comparison: Comparison) -> str:
    """The same as a page."""
    options = [[name, *map(str, values)] for name, values in comparison.differing.items()]
    return html_page.render(
        "comparison.html",
        title="Comparison of runs",
        rows=[_HEADS, *map(_page_row, comparison.rows)],
        warning=None if comparison.comparable else NOT_COMPARABLE,
        option_rows=[["option", *(row["run"] for row in comparison.rows)], *options],
    )


_HEADS = (
    "run",
    "data",
    "model",
    "tune",
    "input px",
    "training images",
    "evaluated on",
    "accuracy",
    "95 % interval",
    "macro F1",
    "loss",
    "training s",
    "MB",
    "ms per image",
)


def _page_row(row: Mapping) -> list:
    ends = row["accuracy_ci95"]
    return [
        row["run"],
        row["data"],
        row["model"],
        row["tune"] or "",
        row["input_px"],
        row["trained_on"],
        f"{row['images']:,} {row['judged_by']}",
        row["accuracy"],
        Cell(html_page.interval(ends), ends[0]),
        row["macro_f1"],
        row["loss"],
        round(row["training_s"]),
        html_page.table_cell(row["megabytes"], digits=1),
        html_page.table_cell(row["latency_ms"], digits=1),
    ]
