"""Which model for these images, this priority and this machine: by the guide's rules, or measured on the images."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import torch

from imgcls.config import recipes
from imgcls.config.model_options import AugmentOptions
from imgcls.data.splits import DatasetSplits
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
from imgcls.probing.model_rules import Recommendation
from imgcls.storage import run_folder

log = logging.getLogger(__name__)

LATENCY_IMAGES = 10
BATCH = 16
COST = {  # what decides between models of like accuracy, the lower the better
    "accuracy": lambda m: m.latency_ms,
    "training_speed": lambda m: -m.train_images_per_second,
    "size": lambda m: m.megabytes,
    "edge": lambda m: m.latency_ms,
}
GIVEN_UP = 0.05  # accuracy that training speed, size and edge may cost at most


def recommendation_text(advice: Recommendation, splits: DatasetSplits, device: torch.device) -> dict:
    """The advice with the recipe, the size, and the minutes that training takes on this machine."""
    origin = source.resolve_model(advice.model)
    built = classifier.build_classifier(origin, splits.classes, from_scratch=True, image_px=advice.image_px)
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
    built.network.to(device)
    pace = _pace(built, splits, device)
    seconds = pace.seconds(images * epochs, images + len(splits.validation) * epochs)
    return {
        "model": advice.model,
        "image_px": advice.image_px,
        "batch": recipe["per_device_train_batch_size"],
        "lr": recipe["learning_rate"],
        "epochs": epochs,
        "augment": recipe["augment"],
        "megabytes": origin.checkpoint.megabytes,
        "training_minutes": round(seconds / 60, 1),
        "reasons": advice.reasons,
    }


def measurement_table(found: dict) -> str:
    """Models as rows, then the pick. found: {"pick", "models": [{column: value}]}; reasons stand below their row."""
    columns = [name for name in found["models"][0] if name != "reasons"]
    cells = [columns, *([_cell(row[name]) for name in columns] for row in found["models"])]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = []
    for line, row in zip(cells, [{}, *found["models"]], strict=True):
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        lines += [f"    {reason}" for reason in row.get("reasons", [])]
    return "\n".join(
        [*lines, "", f"take {found['pick']}:  python scripts/train.py --model {found['pick']} --data FOLDER"]
    )


def _cell(value) -> str:
    if isinstance(value, tuple):
        return " to ".join(f"{part:.3f}" for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass
class MeasuredModel:
    """A model on the owner's own images and machine. correct: bool (N,), from cross-validated probes."""

    model: str
    accuracy: float
    accuracy_ci95: tuple[float, float]
    megabytes: float
    train_images_per_second: float
    predict_images_per_second: float
    latency_ms: float
    training_memory_mb: float
    seconds: float
    correct: np.ndarray = field(repr=False, default=None)

    def row(self) -> dict:
        """All but the single images."""
        return {name: value for name, value in asdict(self).items() if name != "correct"}


def measure_models(names: Sequence[str], splits: DatasetSplits, device: torch.device, seed: int) -> list[MeasuredModel]:
    """Each model on a sample of the training images; those that cannot be had are said and left out."""
    found = []
    for name in names:
        start = time.perf_counter()
        try:
            origin = source.fetch_model(source.resolve_model(name))
            extractor = features.FeatureExtractor(origin, splits, device=device, batch=BATCH)
            shown = input_choice.choose_input(extractor, None, None, balanced=False, seed=seed)
            fitted = extractor.probe(shown, input_choice.COMPARED_IMAGES, balanced=False, seed=seed)
        except ImgclsError as error:
            log.warning("%s is left out: %s", name, error)
            continue
        built = extractor.build(shown.image_px, shown.aspect)
        pace = _pace(built, splits, device)
        right, compared = int(fitted.correct.sum()), len(fitted.correct)
        found.append(
            MeasuredModel(
                name,
                round(right / compared, 4),
                tuple(round(v, 4) for v in wilson_interval(right, compared)),
                round(4 * built.network.num_parameters() / 1e6, 1),
                round(1 / pace.train_s, 1),
                round(1 / pace.evaluation_s, 1),
                round(_latency_ms(built, splits, device), 1),
                round(_memory_mb(built), 0),
                round(time.perf_counter() - start, 1),
                fitted.correct,
            )
        )
        log.info("%s: probe %.3f, %.0f s", name, found[-1].accuracy, found[-1].seconds)
    if not found:
        raise ModelError(f"Expected at least one of {shorten(names)}, got none of them. Name models that are here.")
    return found


def pick_model(measured: Sequence[MeasuredModel], priority: str) -> MeasuredModel:
    """The model to take.

    For accuracy: the cheapest to run of those that no other clearly beats and that are within a point of the best.
    Else: the cheapest in the priority's own sense of those that give up at most GIVEN_UP of accuracy.
    """
    best = max(measured, key=lambda m: m.accuracy)
    if priority == "accuracy":
        able = [
            m
            for m in measured
            if not significant_margin(best.correct, m.correct) and m.accuracy >= best.accuracy - 0.01
        ]
    else:
        able = [m for m in measured if m.accuracy >= best.accuracy - GIVEN_UP]
    return min(able, key=COST[priority])


def best_model(
    splits: DatasetSplits, run: run_folder.RunFolder, device: torch.device, seed: int, *, fresh: bool
) -> str:
    """The one of the eight that does best on the images, or what an earlier command chose on them for this run."""
    images = sorted(splits.merged().paths)
    before = None if fresh else run.read_json(run_folder.RECOMMENDATION)
    if before and before["images"] == images:
        return before["pick"]
    measured = measure_models(list(CHECKPOINTS), splits, device, seed)
    found = {"pick": pick_model(measured, "accuracy").model, "models": [m.row() for m in measured]}
    log.info(measurement_table(found))
    run.write_json(run_folder.RECOMMENDATION, {**found, "images": images})
    return found["pick"]


def _pace(
    built: classifier.Classifier | backbone.Backbone, splits: DatasetSplits, device: torch.device
) -> step_timing.StepTime:
    """Seconds an image takes in training and in evaluation."""
    plan = make_augmentation_plan(AugmentOptions(augment="standard", flip="horizontal"))
    spec = ProcessorSpec(built.processor)
    half, loss = DeviceAugmentation(spec, plan), ClassificationLoss()

    def step(samples: list) -> torch.Tensor:
        batch = collate(samples)
        pixels = half(batch["pixel_values"].to(device), batch["augmentation_params"].to(device))
        return loss(built.network(pixel_values=pixels), batch["labels"].to(device))

    train = TrainingDataset(splits.train.rows, built.processor, plan, CropSpec(built.image_px, spec.resample), seed=0)
    evaluation = EvaluationDataset(splits.train.rows, built.processor)
    pace = step_timing.time_step(built.network, step, train, evaluation, BATCH, device)
    return step_timing.time_full_batch(pace, built.network, step, train, BATCH, device)


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


def _memory_mb(built: backbone.Backbone) -> float:
    """Memory of a training step of BATCH images: weights, gradients, AdamW's two moments, and what backward needs."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    device = next(built.network.parameters()).device
    built.network.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        built.network(pixel_values=torch.zeros(2, 3, built.image_px, built.image_px, device=device)).logits.sum()
    weights = sum(parameter.nbytes for parameter in built.network.parameters())
    parameters = {parameter.data_ptr() for parameter in built.network.parameters()}
    activations = sum(size for pointer, size in kept.items() if pointer not in parameters)
    return (4 * weights + activations / 2 * BATCH) / 1e6
