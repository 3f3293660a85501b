"""Run folders -> what they are, how good, how large and how fast, side by side."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from imgcls.data.location import DEFAULT_FOLDER, resolve_location
from imgcls.dataloading.preprocessing import evaluation_pixels
from imgcls.errors import RunError
from imgcls.models import inference
from imgcls.models.latency import median_latencies_ms
from imgcls.report import html_page
from imgcls.storage import run_folder

TIMED = 10  # images of which the median is told
SAME_EVERYWHERE = ("data", "model", "tune", "image_px", "aspect")  # options with a column of their own


def comparison_row(run: run_folder.RunFolder, device: torch.device) -> dict:
    """What the table says of a run. Raises RunError when the folder holds no finished one.

    The accuracy is that of the folds when there are some, else of the test split, else of validation. latency_ms: one
    image at a time on this machine, from pixels to logits, median.
    """
    metrics = run.read_json(run_folder.METRICS)
    if metrics is None or "train" not in metrics:
        raise RunError(f"Expected a finished run in {run.path}, got no {run_folder.METRICS} of a training. Finish it.")
    options = run.read_options() or {}
    judge = "cross_validation" if metrics.get("cross_validation") else "test" if metrics["test"] else "validation"
    part = metrics[judge]
    network, processor = inference.load_model(run.path, device)
    sample = evaluation_pixels(_gray(), processor)[None].to(device)
    return {
        "run": str(run.path),
        "data": resolve_location(options.get("data")).name,
        "model": Path(metrics["model"]).name,
        "tune": options.get("tune") if metrics["initialised"] == "pretrained" else "from scratch",
        "input_px": sample.shape[-1],
        "trained_on": metrics["train"]["images"],
        "judged_by": judge.replace("_", "-"),
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


def comparable(rows: Sequence[Mapping], runs: Sequence[run_folder.RunFolder]) -> bool:
    """Whether all were judged by the same images with the same labels."""
    judged = set()
    for row, run in zip(rows, runs, strict=True):
        by = {"cross-validation": ("train", "validation")}.get(row["judged_by"], (row["judged_by"],))
        images = frozenset((r["path"], r["label"]) for r in run.read_csv(run_folder.SPLIT) if r["split"] in by)
        judged.add((_data(run.read_options() or {}), images))
    return len(judged) == 1


def _data(options: Mapping) -> str:
    named = options.get("data") or DEFAULT_FOLDER
    return str(Path(named).expanduser().resolve()) if Path(named).expanduser().exists() else named


def differing_options(runs: Sequence[run_folder.RunFolder]) -> dict[str, list]:
    """Options that are not the same in all runs, name -> the value in each."""
    every = [run.read_options() or {} for run in runs]
    names = dict.fromkeys(name for options in every for name in options)
    found = {name: [options.get(name) for options in every] for name in names if name not in _OF_THE_COMMAND}
    return {name: values for name, values in found.items() if any(value != values[0] for value in values)}


_OF_THE_COMMAND = frozenset(("run_name", "logging_dir", *SAME_EVERYWHERE))


def comparison_table(rows: Sequence[Mapping], differing: Mapping[str, Sequence], comparable: bool) -> str:
    """For the terminal: a line a run, best first, then the options that differ."""
    names = [r["run"] for r in rows]
    width = max(map(len, ("run", *names))) + 2
    lines = [
        f"{'run':<{width}}{'model':<20}{'tune':<16}{'px':>4}{'judged by':>18}{'accuracy':>10}  {'95 % interval':<16}"
        f"{'macro F1':>8}{'train s':>9}{'MB':>8}{'ms':>8}"
    ]
    for r in rows:
        low, high = r["accuracy_ci95"]
        judge = f"{r['images']:,} {r['judged_by']}"
        lines.append(
            f"{r['run']:<{width}}{r['model'][:18]:<20}{r['tune'] or '':<16}{r['input_px']:>4}{judge:>18}"
            f"{r['accuracy']:>10.3f}  {f'{low:.3f} to {high:.3f}':<16}{r['macro_f1']:>8.3f}{r['training_s']:>9.0f}"
            f"{r['megabytes']:>8.1f}{r['latency_ms']:>8.1f}"
        )
    if not comparable:
        lines += ["", _WARNING]
    if differing:
        lines += ["", "options that differ, in the same order"]
        lines += [f"  {name}: {', '.join(map(str, values))}" for name, values in differing.items()]
    return "\n".join(lines)


_WARNING = (
    "The runs were judged by different images: compare them on the same ones with scripts/validate.py --run A --data "
    "FOLDER --compare B."
)


def render_comparison(rows: Sequence[Mapping], differing: Mapping[str, Sequence], comparable: bool) -> str:
    """The same as a page."""
    heads = ["run", "data", "model", "tune", "input px", "trained on", "judged by", "accuracy", "95 % interval",
             "macro F1", "loss", "training s", "MB", "ms an image"]  # fmt: skip
    body = [heads]
    for r in rows:
        low, high = r["accuracy_ci95"]
        body.append([
            r["run"], r["data"], r["model"], r["tune"] or "", r["input_px"], r["trained_on"],
            f"{r['images']:,} {r['judged_by']}", r["accuracy"], f"{low:.3f} to {high:.3f}", r["macro_f1"], r["loss"],
            round(r["training_s"]), round(r["megabytes"], 1), round(r["latency_ms"], 1),
        ])  # fmt: skip
    parts = ["<h1>Runs side by side</h1>", html_page.table(body), f"<p>{_WARNING}</p>" if not comparable else ""]
    if differing:
        options = [
            ["option", *(r["run"] for r in rows)],
            *([name, *map(str, values)] for name, values in differing.items()),
        ]
        parts += ["<h2>Options that differ</h2>", html_page.table(options)]
    return html_page.document("runs side by side", parts, "body { max-width: 1500px }")
