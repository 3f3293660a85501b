"""A model and labelled images that it may never have seen -> what it is worth on them, in validation/NAME/."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import nn
from tqdm import tqdm

from imgcls.data import decoding, stratified_split
from imgcls.errors import OptionError, RunError, shorten
from imgcls.evaluation import calibration, corruptions, intervals
from imgcls.evaluation.evaluation_set import EvaluationSet
from imgcls.evaluation.metrics import compute_metrics
from imgcls.evaluation.scores import expected_calibration_error
from imgcls.models import inference
from imgcls.storage import run_folder
from imgcls.system import provenance

CORRUPTED_IMAGES = 500  # of more, a sample is made worse: 21 times over
CROP = 0.9  # of each side, of the views of --tta beside the whole


@dataclass
class EvaluatedModel:
    """A loaded network with its processor, and how it is asked."""

    folder: Path
    network: nn.Module
    processor: object
    device: torch.device
    batch: int

    @property
    def classes(self) -> list[str]:
        """Names in label order."""
        return [self.network.config.id2label[i] for i in range(self.network.config.num_labels)]

    def logits(
        self, of: EvaluationSet, change: Callable | None = None, desc: str = "evaluating"
    ) -> tuple[np.ndarray, dict]:
        """Logits float32 (n, K) of the images that can be read, and position -> error of the others.

        change: (RGB image, position) -> the RGB image that is shown instead.
        """

        def pixels(i: int) -> torch.Tensor:
            picture = decoding.load_rgb(of.source(i))
            picture = picture if change is None else change(picture, i)
            return self.processor(images=picture, return_tensors="pt")["pixel_values"][0]

        found, broken = [], {}
        with tqdm(total=len(of.at), desc=desc, unit="img", leave=False, disable=None) as bar:
            stream = inference.stream_outputs(
                inference.logits_function(self.network), range(len(of.at)), pixels, batch=self.batch, device=self.device
            )
            for at, logits, why in stream:
                broken |= {at[place]: error for place, error in why.items()}
                if len(logits):
                    found.append(logits)
                bar.update(len(at))
        return np.concatenate(found) if found else np.zeros((0, len(self.classes)), np.float32), broken


def check_not_other_evaluation(folder: run_folder.RunFolder, of: EvaluationSet) -> None:
    """Raises RunError when a folder holds the validation of other images; clears it when it holds these ones'."""
    before = folder.read_json(run_folder.METRICS)
    if before is not None and before.get("images_of") != of.place:
        raise RunError(f"Expected {folder.path} free, got the validation of {before.get('images_of')}. Give a --name.")
    (folder / run_folder.DIFFERENCES).unlink(missing_ok=True)


def evaluation_metrics(logits: np.ndarray, of: EvaluationSet, classes: Sequence[str], trust: dict) -> dict:
    """What metrics.json of a validation says: a part as of a run's, and calibration on these images with intervals."""
    labels = of.labels
    found = {"test": compute_metrics(logits, labels, classes)}
    found["calibration"] = {"temperature": trust["temperature"]}
    before, after = (calibration.probabilities(logits, t) for t in (1.0, trust["temperature"]))
    if of.calibrated_on:
        after = calibration.cross_fitted_probabilities(logits, labels)
    for name, p in (("ece_before", before), ("ece_after", after)):
        said = np.stack(calibration.confidence_and_correct(p, labels), axis=1)
        found["calibration"][name] = _ece(said) if len(said) else None
        found["calibration"][f"{name}_ci95"] = intervals.bootstrap(said, _ece) if len(said) else None
    found["threshold"] = calibration.precision_threshold(after, labels, trust["threshold"]["min_precision"])
    return found


def _ece(said: np.ndarray) -> float:
    """said: confidence and correctness (N, 2)."""
    return expected_calibration_error(said[:, 0], said[:, 1] > 0)


def evaluate_with_tta(
    model: EvaluatedModel, of: EvaluationSet, logits: np.ndarray, run: run_folder.RunFolder, temperature: float
) -> dict:
    """Accuracy by the mean probability over views (the whole and its middle; both mirrored too, where training mirrored
    images), and its difference to the plain answers: {"views", "accuracy", "against"}."""

    def middle(picture: Image.Image) -> Image.Image:
        width, height = picture.size
        dx, dy = round((1 - CROP) / 2 * width), round((1 - CROP) / 2 * height)
        return picture.crop((dx, dy, width - dx, height - dy))

    views: list[Callable] = [lambda picture, i: middle(picture)]
    if (run.read_options() or {}).get("flip") in ("horizontal", "both"):
        views += [lambda picture, i: ImageOps.mirror(picture), lambda picture, i: ImageOps.mirror(middle(picture))]
    seen = [logits, *(model.logits(of, view, f"view {k} of {len(views)}")[0] for k, view in enumerate(views, 1))]
    mean = np.mean([calibration.probabilities(one, temperature) for one in seen], axis=0)
    right = mean.argmax(1) == of.labels
    against = intervals.mcnemar(right, logits.argmax(1) == of.labels)
    return {"views": len(seen), "accuracy": float(right.mean()), "against": against}


def evaluate_corruptions(model: EvaluatedModel, of: EvaluationSet, seed: int = 0) -> list[dict]:
    """{"kind", "unit", "value", "images", "accuracy", "clean"}, each kind from mild to strong, on a sample of many."""
    at = stratified_split.stratified_sample([str(label) for label in of.labels], CORRUPTED_IMAGES, seed)
    some = replace(of, at=[of.at[i] for i in at], labels=of.labels[at])
    clean = float((model.logits(some)[0].argmax(1) == some.labels).mean())
    found = []
    for kind, (_, unit, values) in corruptions.CORRUPTIONS.items():
        for value in values:
            logits, _ = model.logits(
                some, lambda p, i, k=kind, v=value: corruptions.corrupt(p, k, v, (seed, i)), f"{kind} {value:g}"
            )
            accuracy = float((logits.argmax(1) == some.labels).mean())
            found.append({"kind": kind, "unit": unit, "value": value, "images": len(at), "accuracy": accuracy,
                          "clean": clean})  # fmt: skip
    return found


def check_comparable(model: EvaluatedModel, other: EvaluatedModel) -> None:
    """Raises OptionError when two models do not know the same classes."""
    odd = set(other.classes) ^ set(model.classes)
    if odd:
        raise OptionError(f"Expected --compare with a model of the same classes, got others: {shorten(odd)}.")


def compare_models(
    model: EvaluatedModel, other: EvaluatedModel, of: EvaluationSet, logits: np.ndarray, folder: run_folder.RunFolder
) -> dict:
    """McNemar's test of two models on the same images; differences.csv lists what they say differently, the first
    one's mistakes first."""
    theirs, broken = other.logits(of, desc="the other model")
    for error in broken.values():  # it was read before
        raise error
    number = np.array([model.classes.index(name) for name in other.classes])
    first, second = logits.argmax(1), number[theirs.argmax(1)]
    names, paths = model.classes, of.paths
    differ = sorted(np.flatnonzero(first != second), key=lambda i: (first[i] == of.labels[i], paths[i]))
    rows = [(paths[i], names[of.labels[i]], names[first[i]], names[second[i]]) for i in differ]
    folder.write_csv(run_folder.DIFFERENCES, run_folder.DIFFERENCE_COLUMNS, rows)
    return intervals.mcnemar(first == of.labels, second == of.labels)


def write_evaluation(
    folder: run_folder.RunFolder, metrics: dict, of: EvaluationSet, logits: np.ndarray, classes: Sequence[str]
) -> dict:
    """predictions.csv, logits.npz and metrics.json of a validation; returns what the last one says."""
    p = calibration.probabilities(logits, metrics["calibration"]["temperature"])
    best = logits.argmax(1)
    rows = (
        (path, of.name, classes[label], classes[k], f"{row[k]:.6f}", int(k == label and np.isfinite(row[k])))
        for path, label, k, row in zip(of.paths, of.labels, best, p, strict=True)
    )
    folder.write_csv(run_folder.PREDICTIONS, run_folder.PREDICTION_COLUMNS, rows)
    folder.write_logits(test=logits)
    metrics = metrics | {"classes": list(classes), "made": provenance.collect_provenance()}
    folder.write_json(run_folder.METRICS, metrics)
    return metrics


def in_words(metrics: dict, of: EvaluationSet, other: str | None) -> str:
    """What a person reads at the end of a validation. other: the run that it was compared with."""
    part, trust, cut = metrics["test"], metrics["calibration"], metrics["threshold"]
    lines = [f"{part['images']:,} images of {of.name} in {len(set(of.labels.tolist()))} classes"]
    for name, key in (("accuracy", "accuracy"), ("macro F1", "macro_f1"), ("balanced accuracy", "balanced_accuracy")):
        lines.append(f"{name:<18} {_with_interval(part[key], part[f'{key}_ci95'])}")
    if trust["ece_before"] is not None:
        before, after = (_with_interval(trust[key], trust[f"{key}_ci95"]) for key in ("ece_before", "ece_after"))
        lines.append(f"{'calibration error':<18} {before}; with temperature {trust['temperature']:.2f} {after}")
    if cut["confidence"] is None:
        lines.append(f"no confidence gives {cut['min_precision']:.0%} of answers right")
    else:
        lines.append(
            f"{cut['min_precision']:.0%} of answers right from confidence {cut['confidence']:.3f} on: "
            f"{cut['coverage']:.1%} of the images, right {_with_interval(cut['precision'], cut['ci95'])}"
        )
    if "tta" in metrics:
        gain = metrics["tta"]["against"]
        by = _with_interval(gain["difference"], gain["ci95"], "+")
        lines.append(f"{'with --tta':<18} {metrics['tta']['accuracy']:.3f}, by {by}")
    if "comparison" in metrics:
        found = metrics["comparison"]
        lines.append(
            f"against {other}: {_with_interval(found['difference'], found['ci95'], '+')}; only this one right "
            f"{found['only_first']}, only the other {found['only_second']}, p = {found['p_value']:.3g}"
        )
    for kind in dict.fromkeys(row["kind"] for row in metrics.get("corruptions", [])):
        rows = [row for row in metrics["corruptions"] if row["kind"] == kind]
        values = ", ".join(f"{row['value']:g}: {row['accuracy']:.3f}" for row in rows)
        lines.append(f"{kind + ' (' + rows[0]['unit'] + ')':<34} {values}")
    return "\n".join(lines)


def _with_interval(value: float, ci95: Sequence[float], sign: str = "") -> str:
    return f"{value:{sign}.3f} ({ci95[0]:{sign}.3f} to {ci95[1]:{sign}.3f})"
