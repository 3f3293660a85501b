"""The best model of a finished training -> the run folder: weights first, then numbers taken from what was saved."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from transformers import BaseImageProcessor, PreTrainedModel

from imgcls.data.dataset import image_source
from imgcls.data.splits import DatasetSplits
from imgcls.dataloading.image_datasets import EvaluationDataset
from imgcls.evaluation import calibration, diagnosis, held_out
from imgcls.evaluation.metrics import compute_metrics
from imgcls.experiment.setup import TrainingSetup
from imgcls.hub import card_file
from imgcls.models import inference
from imgcls.report import report_data
from imgcls.storage import run_claim, run_folder
from imgcls.storage.run_folder import RunFolder
from imgcls.system import provenance
from imgcls.training.model_saving import save_model
from imgcls.training.trainer import ImageTrainer

log = logging.getLogger(__name__)


def write_results(
    trainer: ImageTrainer,
    setup: TrainingSetup,
    selection: dict[str, Any] | None,
    cross_validation: dict[str, Any] | None,
    *,
    page: bool = True,
) -> None:
    """Save the model, load it again as a user would, evaluate that, and write every result.

    metrics.json, which marks the run as finished, comes after the other results; the pages, which are made from the
    finished folder, come last. selection: from `weight_selection.select_weights`. cross_validation: the metrics of
    --folds. page: also write suspects.csv, report.html, figures/ and the model card. All ranks take part in the
    evaluation; rank 0 writes.
    """
    run, splits, args = setup.run, setup.splits, trainer.args
    if args.should_save:
        save_model(trainer, run)
    trainer.accelerator.wait_for_everyone()
    network, processor = inference.load_model(run.path, args.device)
    logits = {}
    for name, split in splits.items():
        if name != "train":
            images = EvaluationDataset(split.rows, processor, cache_keys=split.keys, cache=setup.cache)
            logits[name] = inference.all_logits(network, images, args)
    if not args.should_save:
        return
    labels = {name: np.asarray(splits[name].labels) for name in logits}
    metrics = {name: compute_metrics(values, labels[name], splits.classes) for name, values in logits.items()}
    history = trainer.state.log_history
    findings = trainer.diagnosis.finish(history, metrics["validation"])
    halved_batch = run.read_json(run_folder.BATCH)
    if halved_batch:
        findings.insert(0, diagnosis.out_of_memory(**halved_batch))
    run.write_lines(run_folder.HISTORY, history)
    run.write_csv(run_folder.PREDICTIONS, run_folder.PREDICTION_COLUMNS, _prediction_rows(logits, splits))
    run.write_logits(**logits)
    run.write_json(run_folder.DIAGNOSIS, findings)
    run.write_json(run_folder.CALIBRATION, calibration.fit_calibration(logits["validation"], labels["validation"]))
    record = {
        "model": trainer.classifier.name,
        "classes": splits.classes,
        "initialised": trainer.classifier.initialised,
        "sources": setup.public_sources(),
        "train": _training_record(trainer),
        "selection": selection,
        "validation": metrics["validation"],
        "test": metrics.get("test"),
        "cross_validation": cross_validation,
        "made": provenance.collect_provenance() | {"folder": str(run.path)},
    }
    if page:
        held_out.write_training_suspects(run, splits.classes)
    run.write_json(run_folder.METRICS, record)
    run_claim.remove_checkpoints(run)
    if page:
        _write_report(run, splits, network, processor)
        card_file.write_model_card(run)


def complete_pages(run: RunFolder, splits: DatasetSplits, device: torch.device) -> None:
    """Write report.html and README.md of a finished run that was stopped before they were written."""
    run_claim.remove_checkpoints(run)
    has_predictions = (run / run_folder.LOGITS).exists() and (run / run_folder.CALIBRATION).exists()
    if has_predictions and not (run / run_folder.REPORT).exists():
        log.info("%s lacks %s: writing it", run.path, run_folder.REPORT)
        _write_report(run, splits, *inference.load_model(run.path, device))
    if not (run / run_folder.CARD).exists():
        card_file.write_model_card(run)


def _write_report(
    run: RunFolder, splits: DatasetSplits, network: PreTrainedModel, processor: BaseImageProcessor
) -> None:
    position = {path: (split, i) for _, split in splits.items() for i, path in enumerate(split.paths)}

    def open_source(path: str) -> str | bytes:
        split, i = position[path]
        return image_source(split.rows[i])

    report_data.write_training_report(run, open_source, network, processor)


def _prediction_rows(logits: Mapping[str, np.ndarray], splits: DatasetSplits) -> Iterator[tuple[str, ...]]:
    """Rows of predictions.csv, validation then test."""
    for name, values in logits.items():
        probabilities = softmax(values.astype(np.float64), axis=1)
        split = splits[name]
        for path, label, p in zip(split.paths, split.labels, probabilities, strict=True):
            best = int(p.argmax())
            correct = int(best == label and np.isfinite(p[best]))  # a diverged model is never right
            yield path, name, splits.classes[label], splits.classes[best], f"{p[best]:.6f}", str(correct)


def _training_record(trainer: ImageTrainer) -> dict[str, Any]:
    state, images, waiting = trainer.state, len(trainer.parts.train), trainer.throughput.waiting_fraction
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
