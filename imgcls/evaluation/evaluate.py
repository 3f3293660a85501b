"""Evaluation of a trained model on labelled images; results are saved in RUN/validation/NAME/."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from tqdm import tqdm

from imgcls.config.data_options import SourceOptions
from imgcls.config.inference_options import ValidateOptions
from imgcls.data import decoding, stratified_split
from imgcls.errors import FolderError, ImageError, OptionError, RunError, shorten
from imgcls.evaluation import calibration, corruptions, held_out, intervals, run_calibration
from imgcls.evaluation.evaluation_set import EvaluationSet, open_evaluation_set
from imgcls.evaluation.loaded_model import LoadedModel
from imgcls.evaluation.metrics import compute_metrics
from imgcls.evaluation.scores import expected_calibration_error
from imgcls.storage import run_claim, run_folder
from imgcls.system import provenance

log = logging.getLogger(__name__)

MAX_CORRUPTED_IMAGES = 500  # each is predicted 21 times; more images are sampled
TTA_CROP = 0.9  # side of the center crop of --tta, as a fraction of the image's


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    run: the model's run folder. folder: where the files of this evaluation are, inside of `run`. images: those that
    could be read. logits: float32 (N, K). metrics: the content of metrics.json.
    """

    model: LoadedModel
    run: run_folder.RunFolder
    folder: run_folder.RunFolder
    images: EvaluationSet
    logits: np.ndarray
    metrics: dict


def evaluate_run(options: ValidateOptions, data: SourceOptions) -> Evaluation:
    """Load the model of `--run` and evaluate it, see `evaluate_model`."""
    model = LoadedModel.load(options.run, batch_size=options.batch_size, min_precision=options.min_precision)
    return evaluate_model(model, options, data)


def evaluate_model(model: LoadedModel, options: ValidateOptions, data: SourceOptions) -> Evaluation:
    """Predict the images of `data` (None: the model's held-out images) and save metrics, predictions and logits.

    Raises FolderError for data that cannot be used, OptionError for a model to compare with that has other classes,
    RunError when the folder holds the results of other images.
    """
    other = _load_other(model, options.compare) if options.compare else None
    run = model.run
    images = open_evaluation_set(options, data, run, model.classes)
    folder = run_folder.RunFolder(run / run_folder.VALIDATION / images.name)
    check_not_other_evaluation(folder, images)
    run_claim.check_writable(folder)
    images, logits = _readable_images(model, images)
    known = model.calibration or run_calibration.uncalibrated(options.min_precision)
    metrics: dict[str, Any] = {"model": model.name, "data": images.name, "images_of": images.place}
    metrics |= evaluation_metrics(logits, images, model.classes, known)
    if options.tta:
        metrics["tta"] = evaluate_with_tta(model, images, logits)
    if options.corruptions:
        metrics["corruptions"] = evaluate_corruptions(model, images)
    if other:
        metrics["comparison"] = compare_models(model, other, images, logits, folder)
    metrics |= {"classes": model.classes, "made": provenance.collect_provenance()}
    evaluation = Evaluation(model, run, folder, images, logits, metrics)
    write_evaluation(evaluation)
    return evaluation


def _load_other(model: LoadedModel, name: str) -> LoadedModel:
    other = LoadedModel.load(name, device=model.device, batch_size=model.batch_size)
    odd = set(other.classes) ^ set(model.classes)
    if odd:
        raise OptionError(f"Expected --compare with a model of the same classes, got others: {shorten(odd)}.")
    return other


def check_not_other_evaluation(folder: run_folder.RunFolder, images: EvaluationSet) -> None:
    """Raises RunError when the folder holds an evaluation of other images; removes the old differences.csv."""
    before = folder.read_json(run_folder.METRICS)
    if before is not None and before.get("images_of") != images.place:
        raise RunError(
            f"Expected {folder.path} to be free, got the validation of {before.get('images_of')}. Set another --name."
        )
    (folder / run_folder.DIFFERENCES).unlink(missing_ok=True)


def _readable_images(model: LoadedModel, images: EvaluationSet) -> tuple[EvaluationSet, np.ndarray]:
    """The images that can be read, and their logits. Raises FolderError when there are none."""
    logits, errors = predict_images(model, images)
    for error in errors.values():
        log.warning("skipped: %s", error)
    if not len(logits):
        raise FolderError(f"Expected images that can be read in {images.place}, got none.")
    return images.subset([i for i in range(len(images.indices)) if i not in errors]), logits


def predict_images(
    model: LoadedModel,
    images: EvaluationSet,
    transform: Callable[[Image.Image, int], Image.Image] | None = None,
    description: str = "evaluating",
) -> tuple[np.ndarray, dict[int, ImageError]]:
    """Logits float32 (n, K) of the images that can be read, and position -> error of the others.

    transform: (RGB image, position) -> the RGB image to predict.
    """

    def pixels(i: int) -> torch.Tensor:
        image = decoding.load_rgb(images.source(i))
        return model.spec.pixel_values(image if transform is None else transform(image, i))

    positions = range(len(images.indices))
    outputs = [np.zeros((0, len(model.classes)), np.float32)]
    errors = {}
    with tqdm(total=len(positions), desc=description, unit="img", leave=False, disable=None) as bar:
        for batch, logits, broken in model.stream_logits(positions, pixels):
            errors |= {batch[place]: error for place, error in broken.items()}
            if len(logits):
                outputs.append(logits)
            bar.update(len(batch))
    return np.concatenate(outputs), errors


def evaluation_metrics(logits: np.ndarray, images: EvaluationSet, classes: Sequence[str], known: dict) -> dict:
    """The metrics, and the calibration on these images with intervals. known: see `run_calibration`."""
    labels, temperature = images.labels, known["temperature"]
    before, after = (calibration.probabilities(logits, t) for t in (1.0, temperature))
    if images.calibrated_on:
        after = calibration.cross_fitted_probabilities(logits, labels)
    results: dict[str, Any] = {"temperature": temperature}
    for name, p in (("ece_before", before), ("ece_after", after)):
        pairs = np.stack(calibration.confidence_and_correct(p, labels), axis=1)
        results[name] = _ece(pairs) if len(pairs) else None
        results[f"{name}_ci95"] = intervals.bootstrap(pairs, _ece) if len(pairs) else None
    return {
        "test": compute_metrics(logits, labels, classes),
        "calibration": results,
        "threshold": calibration.precision_threshold(after, labels, known["threshold"]["min_precision"]),
    }


def _ece(pairs: np.ndarray) -> float:
    """ECE of confidence and correctness (N, 2)."""
    return expected_calibration_error(pairs[:, 0], pairs[:, 1] > 0)


def evaluate_with_tta(model: LoadedModel, images: EvaluationSet, logits: np.ndarray) -> dict:
    """Accuracy of the mean probability over test-time augmentations, and its difference to the plain predictions.

    Augmentations: the image and its center crop; both mirrored too if training mirrored images. Returns {"views",
    "accuracy", "against"}.
    """
    augmentations: list[Callable[[Image.Image, int], Image.Image]] = [lambda image, _: _center_crop(image)]
    if (model.run.read_options() or {}).get("flip") in ("horizontal", "both"):
        augmentations += [
            lambda image, _: ImageOps.mirror(image),
            lambda image, _: ImageOps.mirror(_center_crop(image)),
        ]
    outputs = [logits]
    for k, augmentation in enumerate(augmentations, 1):
        outputs.append(predict_images(model, images, augmentation, f"view {k} of {len(augmentations)}")[0])
    mean = np.mean([calibration.probabilities(output, model.temperature) for output in outputs], axis=0)
    correct = mean.argmax(1) == images.labels
    against = intervals.mcnemar(correct, logits.argmax(1) == images.labels)
    return {"views": len(outputs), "accuracy": float(correct.mean()), "against": against}


def _center_crop(image: Image.Image) -> Image.Image:
    width, height = image.size
    dx, dy = round((1 - TTA_CROP) / 2 * width), round((1 - TTA_CROP) / 2 * height)
    return image.crop((dx, dy, width - dx, height - dy))


def evaluate_corruptions(model: LoadedModel, images: EvaluationSet, seed: int = 0) -> list[dict]:
    """Accuracy on corrupted images, each kind from mild to strong; large sets are sampled.

    Returns a list of {"kind", "unit", "value", "images", "accuracy", "clean"}; "clean" is the accuracy without
    corruption.
    """
    labels = [str(label) for label in images.labels]
    sample = images.subset(stratified_split.stratified_sample(labels, MAX_CORRUPTED_IMAGES, seed))

    def accuracy(transform: Callable[[Image.Image, int], Image.Image] | None, description: str) -> float:
        logits, _ = predict_images(model, sample, transform, description)
        return float((logits.argmax(1) == sample.labels).mean())

    clean = accuracy(None, "evaluating")
    results = []
    for kind, (_, unit, values) in corruptions.CORRUPTIONS.items():
        for value in values:

            def corrupt(image: Image.Image, i: int, kind: str = kind, value: float = value) -> Image.Image:
                return corruptions.corrupt(image, kind, value, (seed, i))

            results.append(
                {
                    "kind": kind,
                    "unit": unit,
                    "value": value,
                    "images": len(sample.indices),
                    "accuracy": accuracy(corrupt, f"{kind} {value:g}"),
                    "clean": clean,
                }
            )
    return results


def compare_models(
    model: LoadedModel, other: LoadedModel, images: EvaluationSet, logits: np.ndarray, folder: run_folder.RunFolder
) -> dict:
    """McNemar's test of two models on the same images.

    Writes differences.csv, the images for which they predict different classes, the first model's mistakes first.
    Raises ImageError when an image can no longer be read.
    """
    other_logits, errors = predict_images(model=other, images=images, description="the other model")
    for error in errors.values():
        raise error
    index = np.array([model.classes.index(name) for name in other.classes])  # of the first model's classes
    first, second = logits.argmax(1), index[other_logits.argmax(1)]
    names, paths = model.classes, images.paths
    differing = sorted(np.flatnonzero(first != second), key=lambda i: (first[i] == images.labels[i], paths[i]))
    rows = [(paths[i], names[images.labels[i]], names[first[i]], names[second[i]]) for i in differing]
    folder.write_csv(run_folder.DIFFERENCES, run_folder.DIFFERENCE_COLUMNS, rows)
    return intervals.mcnemar(first == images.labels, second == images.labels)


def write_evaluation(evaluation: Evaluation) -> None:
    """Write predictions.csv, logits.npz, metrics.json and suspects.csv."""
    images, logits, classes = evaluation.images, evaluation.logits, evaluation.model.classes
    p = calibration.probabilities(logits, evaluation.metrics["calibration"]["temperature"])
    rows = (
        (path, images.name, classes[label], classes[k], f"{row[k]:.6f}", int(k == label and np.isfinite(row[k])))
        for path, label, k, row in zip(images.paths, images.labels, logits.argmax(1), p, strict=True)
    )
    evaluation.folder.write_csv(run_folder.PREDICTIONS, run_folder.PREDICTION_COLUMNS, rows)
    evaluation.folder.write_logits(test=logits)
    evaluation.folder.write_json(run_folder.METRICS, evaluation.metrics)
    held_out.write_evaluation_suspects(evaluation.folder)
