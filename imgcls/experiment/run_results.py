"""The best model of a finished training -> the run folder: weights first, then numbers taken from what was saved."""

from __future__ import annotations

import logging

import numpy as np
import torch
from scipy.special import softmax
from torch import nn
from transformers import BaseImageProcessor

from imgcls.data.dataset import image_source
from imgcls.data.splits import DatasetSplits
from imgcls.dataloading.image_datasets import EvaluationDataset
from imgcls.evaluation import calibration, diagnosis, held_out
from imgcls.evaluation.metrics import compute_metrics
from imgcls.hub import publish
from imgcls.models import inference
from imgcls.report import report_data
from imgcls.storage import run_claim, run_folder
from imgcls.storage.pixel_cache import PixelCache
from imgcls.system import provenance
from imgcls.training.model_saving import save_model
from imgcls.training.trainer import ImageTrainer

log = logging.getLogger(__name__)


def write_results(
    trainer: ImageTrainer,
    splits: DatasetSplits,
    run: run_folder.RunFolder,
    selection: dict | None,
    cross_validation: dict | None,
    sources: dict,
    kept: PixelCache,
    *,
    page: bool = True,
) -> None:
    """Save the model, load it again as a user would, evaluate that, and write every result, then metrics.json,
    which marks the run as finished, and last the pages, which are made from the finished folder.

    selection: as from `weight_selection.select_weights`. cross_validation: the numbers of --folds. sources: see
    `TrainingSetup.sources`.
    kept: where photos are kept.
    page: with suspects.csv, report.html, figures/ and the card. All ranks take part in the evaluation; rank 0 writes.
    """
    args = trainer.args
    if args.should_save:
        save_model(trainer, run)
    trainer.accelerator.wait_for_everyone()
    network, processor = inference.load_model(run.path, args.device)
    logits = {}
    for name, split in splits.items():
        if name != "train":
            view = EvaluationDataset(split.rows, processor, cache_keys=split.keys, cache=kept)
            logits[name] = inference.all_logits(network, view, args)
    if not args.should_save:
        return
    labels = {split: splits[split].labels for split in logits}
    numbers = {split: compute_metrics(found, labels[split], splits.classes) for split, found in logits.items()}
    history = trainer.state.log_history
    findings = trainer.diagnosis.finish(history, numbers["validation"])
    remembered = run.read_json(run_folder.BATCH)
    if remembered:
        findings.insert(0, diagnosis.out_of_memory(**remembered))
    run.write_lines(run_folder.HISTORY, history)
    run.write_csv(run_folder.PREDICTIONS, run_folder.PREDICTION_COLUMNS, _predictions(logits, splits))
    run.write_logits(**logits)
    run.write_json(run_folder.DIAGNOSIS, findings)
    run.write_json(run_folder.CALIBRATION, calibration.fit_calibration(logits["validation"], labels["validation"]))
    metrics = {
        "model": trainer.classifier.name,
        "classes": splits.classes,
        "initialised": trainer.classifier.initialised,
        "sources": sources,
        "train": _training_numbers(trainer),
        "selection": selection,
        "validation": numbers["validation"],
        "test": numbers.get("test"),
        "cross_validation": cross_validation,
        "made": provenance.collect_provenance() | {"folder": str(run.path)},
    }
    if page:
        held_out.write_training_suspects(run, splits.classes)
    run.write_json(run_folder.METRICS, metrics)
    run_claim.remove_checkpoints(run)
    if page:
        _write_report(run, splits, network, processor)
        publish.write_model_card(run)


def complete_pages(run: run_folder.RunFolder, splits: DatasetSplits, device: torch.device) -> None:
    """Write report.html and README.md of a finished run that was stopped before they were written."""
    run.drop_checkpoints()
    has_predictions = (run / run_folder.LOGITS).exists() and (run / run_folder.CALIBRATION).exists()
    if has_predictions and not (run / run_folder.REPORT).exists():
        log.info("%s lacks %s: writing it", run.path, run_folder.REPORT)
        _write_report(run, splits, *inference.load_model(run.path, device))
    if not (run / run_folder.CARD).exists():
        publish.write_model_card(run)


def _write_report(
    run: run_folder.RunFolder, splits: DatasetSplits, network: nn.Module, processor: BaseImageProcessor
) -> None:
    position = {path: (split, i) for _, split in splits.items() for i, path in enumerate(split.paths)}

    def open_source(path: str) -> str | bytes:
        split, i = position[path]
        return image_source(split.rows[i])

    report_data.write_training_report(run, open_source, network, processor)


def _predictions(logits: dict[str, np.ndarray], splits: DatasetSplits):
    """Rows of predictions.csv, validation then test."""
    for split, found in logits.items():
        probabilities = softmax(found.astype(np.float64), axis=1)
        rows = zip(splits[split].paths, splits[split].labels, probabilities, strict=True)
        for path, label, p in rows:
            best = int(p.argmax())
            name = splits.classes[best]
            correct = int(best == label and np.isfinite(p[best]))  # a diverged model is never right
            yield path, split, splits.classes[label], name, f"{p[best]:.6f}", correct


def _training_numbers(trainer: ImageTrainer) -> dict:
    state, images, waiting = trainer.state, len(trainer.train_dataset), trainer.throughput.waiting_fraction
    seconds = trainer.training_seconds
    best = next((e for e in state.log_history if e["step"] == state.best_global_step and "eval_loss" in e), {})
    return {
        "images": images,
        "epochs": round(state.epoch, 3),
        "seconds": round(seconds, 1),
        "images_per_second": round(images * state.epoch / max(seconds, 1e-9), 1),
        **({} if waiting is None else {"waiting": round(waiting, 3)}),
        "stopped_early": state.global_step < state.max_steps,
        "best_epoch": round(best.get("epoch", state.epoch), 3),
    }
