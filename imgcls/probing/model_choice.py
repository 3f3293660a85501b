"""Recommend a model for these images, a priority and this machine: by rules, or measured on the images."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import cast

import numpy as np
import torch
from torch import nn

from imgcls.audit import screening
from imgcls.config import recipes
from imgcls.config.data_options import DataOptions
from imgcls.config.inference_options import RecommendOptions
from imgcls.config.model_options import AugmentOptions
from imgcls.data import dataset
from imgcls.data.location import resolve_location
from imgcls.data.splits import DatasetSplits, make_splits
from imgcls.dataloading.augmentation import DeviceAugmentation, make_augmentation_plan
from imgcls.dataloading.crops import CropSpec
from imgcls.dataloading.image_datasets import EvaluationDataset, TrainingDataset, collate
from imgcls.dataloading.processor_spec import ProcessorSpec
from imgcls.errors import ImgclsError, ModelError, shorten
from imgcls.evaluation.intervals import significant_margin, wilson_interval
from imgcls.models import classifier, source, step_timing
from imgcls.models.latency import median_latencies_ms
from imgcls.models.losses import ClassificationLoss
from imgcls.models.registry import CHECKPOINTS
from imgcls.probing import backbone, features, input_choice
from imgcls.probing.model_rules import ModelRequest, Recommendation, recommend_by_rules
from imgcls.storage import run_folder
from imgcls.system import hardware

log = logging.getLogger(__name__)

LATENCY_IMAGES = 10
BATCH_SIZE = 16
MAX_BY_RULES = 3  # models recommended by rules: few rules speak for any other
COST = {  # decides between models of similar accuracy, the lower the better
    "accuracy": lambda m: m.latency_ms,
    "training_speed": lambda m: -m.train_images_per_second,
    "size": lambda m: m.megabytes,
    "edge": lambda m: m.latency_ms,
}
MAX_ACCURACY_LOSS = 0.05  # that training speed, size and edge may cost


def recommend(data: DataOptions, options: RecommendOptions) -> dict:
    """{"pick": model, "models": [{column: value}]}: by rules, or measured with --measure.

    Checks and splits the images first. Raises ImgclsError for images that cannot be split, and when no model can be
    measured.
    """
    device = torch.device(hardware.accelerator() or "cpu")
    images = dataset.open_images(resolve_location(data.data), data.image_column, data.label_column)
    screened = screening.screen_images(images, data, show_progress=True)
    splits = make_splits(images, screened.excluded, data, options.seed, screened.groups)
    if options.measure is not None:
        measured = measure_models(options.measure or list(CHECKPOINTS), splits, device, options.seed)
        return measurement_results(measured, options.priority)
    target = options.device if options.device != "auto" else "cpu" if device.type == "cpu" else "gpu"
    request = ModelRequest(options.priority, options.use_case, target)
    recommendations = recommend_by_rules(request, len(splits.train))[:MAX_BY_RULES]
    rows = [training_plan(recommendation, splits, device) for recommendation in recommendations]
    return {"pick": rows[0]["model"], "models": rows}


def training_plan(recommendation: Recommendation, splits: DatasetSplits, device: torch.device) -> dict:
    """A recommended model with its recipe, its size, and the minutes that training takes on this machine."""
    origin = source.resolve_model(recommendation.model)
    built = classifier.build_classifier(origin, splits.classes, from_scratch=True, image_px=recommendation.image_px)
    facts = recipes.Facts(
        images=len(splits.train),
        classes=len(splits.classes),
        imbalance=splits.train.imbalance(),
        family=built.family,
        pretrained=True,
        mode=recipes.auto_tuning_mode(built.family, len(splits.train)),
    )
    recipe = {choice.option: choice.value for choice in recipes.choose_options(facts)}
    epochs, images = recipe["num_train_epochs"], facts.images
    cast(nn.Module, built.network).to(device)
    step_time = _time_step(built, splits, device)
    seconds = step_time.seconds(images * epochs, images + len(splits.validation) * epochs)
    return {
        "model": recommendation.model,
        "image_px": recommendation.image_px,
        "batch": recipe["per_device_train_batch_size"],
        "lr": recipe["learning_rate"],
        "epochs": epochs,
        "augment": recipe["augment"],
        "megabytes": CHECKPOINTS[recommendation.model].megabytes,
        "training_minutes": round(seconds / 60, 1),
        "reasons": recommendation.reasons,
    }


def format_table(results: dict) -> str:
    """A row per model with its reasons below, then the pick. results: see `recommend`."""
    columns = [name for name in results["models"][0] if name != "reasons"]
    cells = [columns, *([_format_cell(row[name]) for name in columns] for row in results["models"])]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = []
    for line, row in zip(cells, [{}, *results["models"]], strict=True):
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        lines += [f"    {reason}" for reason in row.get("reasons", [])]
    pick = results["pick"]
    return "\n".join([*lines, "", f"take {pick}:  python scripts/train.py --model {pick} --data FOLDER"])


def _format_cell(value: object) -> str:
    if isinstance(value, tuple):
        return " to ".join(f"{part:.3f}" for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass
class MeasuredModel:
    """Measurements of a model on the user's images and machine.

    correct: bool (N,), whether the cross-validated probe predicted each image correctly.
    """

    model: str
    accuracy: float
    accuracy_ci95: tuple[float, float]
    megabytes: float
    train_images_per_second: float
    predict_images_per_second: float
    latency_ms: float
    training_memory_mb: float
    seconds: float
    correct: np.ndarray = field(repr=False)

    def row(self) -> dict:
        """All measurements but those of single images."""
        return {name: value for name, value in asdict(self).items() if name != "correct"}


def measure_models(names: Sequence[str], splits: DatasetSplits, device: torch.device, seed: int) -> list[MeasuredModel]:
    """Measure each model on a sample of the training images; unavailable models are logged and skipped.

    Raises ModelError when none is left.
    """
    measured = []
    for name in names:
        try:
            measured.append(_measure_model(name, splits, device, seed))
        except ImgclsError as error:
            log.warning("%s is skipped: %s", name, error)
            continue
        log.info("%s: probe accuracy %.3f (%.0f s)", name, measured[-1].accuracy, measured[-1].seconds)
    if not measured:
        raise ModelError(f"Expected at least one of {shorten(names)}, got none of them. Name models that are here.")
    return measured


def _measure_model(name: str, splits: DatasetSplits, device: torch.device, seed: int) -> MeasuredModel:
    started = time.perf_counter()
    origin = source.fetch_model(source.resolve_model(name))
    extractor = features.FeatureExtractor(origin, splits, device, BATCH_SIZE)
    input_format = input_choice.choose_input(extractor, None, None, balanced=False, seed=seed)
    probe = extractor.probe(input_format, input_choice.MAX_COMPARED_IMAGES, balanced=False, seed=seed)
    built = extractor.backbone(input_format)
    step_time = _time_step(built, splits, device)
    correct, compared = int(probe.correct.sum()), len(probe.correct)
    low, high = wilson_interval(correct, compared)
    return MeasuredModel(
        model=name,
        accuracy=round(correct / compared, 4),
        accuracy_ci95=(round(low, 4), round(high, 4)),
        megabytes=round(4 * built.network.num_parameters() / 1e6, 1),
        train_images_per_second=round(1 / step_time.train_s, 1),
        predict_images_per_second=round(1 / step_time.evaluation_s, 1),
        latency_ms=round(_latency_ms(built, splits, device), 1),
        training_memory_mb=round(_training_memory_mb(built), 0),
        seconds=round(time.perf_counter() - started, 1),
        correct=probe.correct,
    )


def measurement_results(measured: Sequence[MeasuredModel], priority: str) -> dict:
    """{"pick": model, "models": [{column: value}]}."""
    return {"pick": pick_model(measured, priority).model, "models": [model.row() for model in measured]}


def pick_model(measured: Sequence[MeasuredModel], priority: str) -> MeasuredModel:
    """The model to take.

    For accuracy: the fastest of those that are not significantly worse than the best and within 0.01 of it.
    Otherwise: the cheapest by the priority's own measure of those within MAX_ACCURACY_LOSS of the best.
    """
    best = max(measured, key=lambda m: m.accuracy)
    if priority == "accuracy":
        candidates = [
            m
            for m in measured
            if not significant_margin(best.correct, m.correct) and m.accuracy >= best.accuracy - 0.01
        ]
    else:
        candidates = [m for m in measured if m.accuracy >= best.accuracy - MAX_ACCURACY_LOSS]
    return min(candidates, key=COST[priority])


def best_model(
    splits: DatasetSplits, run: run_folder.RunFolder, device: torch.device, seed: int, *, fresh: bool
) -> str:
    """The known model that does best on the images, or the one that an earlier command chose on them for this run."""
    images = sorted(splits.merged().paths)
    stored = None if fresh else run.read_json(run_folder.RECOMMENDATION)
    if stored and stored["images"] == images:
        return stored["pick"]
    results = measurement_results(measure_models(list(CHECKPOINTS), splits, device, seed), "accuracy")
    log.info(format_table(results))
    run.write_json(run_folder.RECOMMENDATION, {**results, "images": images})
    return results["pick"]


def _time_step(
    built: classifier.Classifier | backbone.Backbone, splits: DatasetSplits, device: torch.device
) -> step_timing.StepTime:
    """Seconds per image in training and in evaluation."""
    plan = make_augmentation_plan(AugmentOptions(augment="standard", flip="horizontal"))
    spec = ProcessorSpec(built.processor)
    half, loss = DeviceAugmentation(spec, plan), ClassificationLoss()

    def step(samples: list) -> torch.Tensor:
        batch = collate(samples)
        pixels = half(batch["pixel_values"].to(device), batch["augmentation_params"].to(device))
        return loss(built.network(pixel_values=pixels), batch["labels"].to(device))

    train = TrainingDataset(splits.train.rows, built.processor, plan, CropSpec(built.image_px, spec.resample), seed=0)
    evaluation = EvaluationDataset(splits.train.rows, built.processor)
    step_time = step_timing.time_step(built.network, step, train, evaluation, BATCH_SIZE, device)
    return step_timing.time_full_batch(step_time, built.network, step, train, BATCH_SIZE, device)


def _latency_ms(built: backbone.Backbone, splits: DatasetSplits, device: torch.device) -> float:
    """Median milliseconds from a file to its logits, one image at a time."""
    view = EvaluationDataset(splits.train.rows, built.processor)
    built.network.eval()
    indices = itertools.cycle(range(len(view)))

    def predict_next() -> torch.Tensor:
        pixels = view[next(indices)]["pixel_values"][None].to(device)
        return built.network(pixel_values=pixels).logits.cpu()

    with torch.no_grad():
        repeats = min(LATENCY_IMAGES, len(view))
        return median_latencies_ms({"network": predict_next}, repeats=repeats, warm_up=1)["network"]


def _training_memory_mb(built: backbone.Backbone) -> float:
    """Memory of a training step of BATCH_SIZE images: weights, gradients, AdamW's two moments, saved activations."""
    saved: dict[int, int] = {}  # address -> bytes

    def record(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.data_ptr()] = tensor.nbytes
        return tensor

    parameters = list(built.network.parameters())
    pixels = torch.zeros(2, 3, built.image_px, built.image_px, device=parameters[0].device)
    built.network.train()
    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        built.network(pixel_values=pixels).logits.sum()
    addresses = {parameter.data_ptr() for parameter in parameters}
    weights = sum(parameter.nbytes for parameter in parameters)
    activations = sum(size for address, size in saved.items() if address not in addresses)
    return (4 * weights + activations / len(pixels) * BATCH_SIZE) / 1e6
