"""A training from the user's options to a finished run folder; with --folds, also one run per fold."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from accelerate import PartialState
from accelerate.utils.memory import clear_device_cache
from transformers import TrainerCallback
from transformers.trainer_utils import HubStrategy

from imgcls.audit import screening
from imgcls.config.fields import CommandOptions
from imgcls.config.parser import ParsedOptions
from imgcls.config.training_config import TrainingRequest
from imgcls.data import dataset, splits
from imgcls.data.dataset import ImageCollection
from imgcls.data.location import resolve_location
from imgcls.data.splits import DatasetSplits
from imgcls.dataloading import image_datasets
from imgcls.errors import LaunchError, OptionError
from imgcls.evaluation.metrics import compute_metrics
from imgcls.experiment import hub_push, hyperparameter_search, weight_selection
from imgcls.experiment.hub_push import HubDestination
from imgcls.experiment.resolve_options import resolve_options
from imgcls.experiment.setup import TrainingSetup
from imgcls.experiment.trainer_factory import make_trainer
from imgcls.models.source import ModelSource, fetch_for_training, resolve_model
from imgcls.storage import pixel_location, run_claim, run_folder
from imgcls.storage.pixel_cache import PixelCache
from imgcls.storage.run_folder import RunFolder
from imgcls.system import hardware
from imgcls.training import fit
from imgcls.training.checkpointing import needed_disk_bytes
from imgcls.training.trainer import ImageTrainer

log = logging.getLogger(__name__)

NO_CALLBACKS: Callable[[ImageTrainer], list[TrainerCallback]] = lambda trainer: []  # noqa: E731


@dataclass(frozen=True)
class FinishedTraining:
    """What a training command leaves: the run folder, and where to push it (None: nowhere, or not from this rank)."""

    run: RunFolder
    request: TrainingRequest
    destination: HubDestination | None

    def leave(self) -> None:
        """Wait for the other processes of the launch, and close the connections to them."""
        hardware.shutdown(PartialState())

    def push(self) -> str | None:
        """Push the run if the options said so; returns the address of its page. Raises HubError."""
        return hub_push.push_finished_run(self.run, self.destination) if self.destination else None


def make_request(parsed: ParsedOptions) -> TrainingRequest:
    """Set up this process for training, and return the options as dataclasses.

    Raises OptionError for values that are refused, LaunchError for processes that would not train together.
    """
    hardware.configure_process()
    request = TrainingRequest.from_parsed(parsed, hardware.training_defaults())
    hardware.check_launch(request.training.world_size)
    return request


def train(request: TrainingRequest) -> FinishedTraining:
    """Run a whole training: check, read and split the images, decide the options, train, evaluate, write the results.

    Cheap checks come first, before anything is decoded or downloaded. A run that was stopped is resumed; a finished
    run is left as it is. Raises ImgclsError for everything that the user can fix.
    """
    check_options(request)
    source = None if request.model.model == "auto" else resolve_model(request.model.model)
    images, cache = _open_images(request)
    if "output_dir" not in request.given:
        name = f"{images.location.name}-{source.short_name if source else 'auto'}"
        request = request.with_options(output_dir=f"runs/{name}")
    training = request.training
    run = RunFolder(request.value("output_dir"))
    destination = hub_push.prepare_push(training, run.path.resolve().name)
    request = request.with_options(push_to_hub=False)  # Trainer's own pushes swallow their errors
    run_claim.check_writable(run, needed_bytes=needed_disk_bytes(source, training.save_total_limit) if source else 0)

    with training.main_process_first():
        screened = screening.screen_images(
            images,
            request.data,
            image_datasets.caching_thumbnails(cache, images.keys),
            show_progress=training.should_log,
        )
    image_splits = splits.make_splits(images, screened.excluded, request.data, training.seed, screened.groups)
    request, source = _fetch_checkpoint(request, source, image_splits, run, is_demo=images.location.is_demo)
    config = resolve_options(
        request, source, image_splits, elongated_fraction=screened.elongated_fraction, is_demo=images.location.is_demo
    )
    run_training(
        TrainingSetup(config, source, image_splits, run, images.location, cache),
        screened.as_files(images.listing.files),
        callbacks=destination.callbacks if destination else NO_CALLBACKS,
    )
    return FinishedTraining(run, request, destination)


def check_options(request: TrainingRequest) -> None:
    """Raise OptionError or LaunchError for options that contradict each other."""
    data, model, tune, training = request.data, request.model, request.tune, request.training
    if tune.tune == "head" and (request.augment.mixup or request.augment.cutmix):
        raise OptionError(
            "Expected --tune head without --mixup and --cutmix, got both: features are computed of whole images."
        )
    if tune.feature_crops > 1 and tune.tune != "head":
        raise OptionError(
            f"Expected --feature_crops with --tune head, got it with {tune.tune}: other modes take a new random crop "
            "in each epoch. Omit --feature_crops."
        )
    if data.folds and (tune.search or model.model == "auto"):
        raise OptionError(
            f"Expected --folds without {'--search' if tune.search else '--model auto'}, got both: the choice would "
            "depend on the images that the folds hold out. Choose first, then give the chosen values with --folds."
        )
    if model.model == "auto" and training.world_size > 1:
        raise LaunchError(
            "Expected --model auto in one process, got several. Run recommend.py --measure first, and name its pick."
        )
    uses_fsdp = training.fsdp or os.environ.get("ACCELERATE_USE_FSDP") == "true"
    if uses_fsdp and (tune.tune in ("head", "lora") or tune.ema or tune.search):
        raise OptionError("Expected FSDP without --tune head, --tune lora, --ema and --search, got one. Omit one.")
    if uses_fsdp and training.push_to_hub and training.hub_strategy != HubStrategy.END:
        raise OptionError(
            "Expected --hub_strategy end with FSDP, got every_save: no process has the whole model during training."
        )
    if tune.search:
        hyperparameter_search.check_search_options(request)


def _open_images(request: TrainingRequest) -> tuple[ImageCollection, PixelCache]:
    """The images that --data names, not yet decoded, and the cache for their pixels."""
    performance, training = request.performance, request.training
    with training.main_process_first():
        if performance.clear_cache and training.should_save:
            pixel_location.clear_cache()
        location = resolve_location(request.data.data)
        images = dataset.open_images(location, request.data.image_column, request.data.label_column)
    return images, pixel_location.open_pixel_cache(performance.cache, performance.cache_gb)


def _fetch_checkpoint(
    request: TrainingRequest, source: ModelSource | None, image_splits: DatasetSplits, run: RunFolder, *, is_demo: bool
) -> tuple[TrainingRequest, ModelSource]:
    """The checkpoint in a local folder; for --model auto the one that measured best on the images."""
    training = request.training
    if source is None:
        from imgcls.probing import model_choice  # its imports are needed by no other training

        best = model_choice.best_model(image_splits, run, training.device, training.seed, fresh=request.command.fresh)
        request, source = request.with_options(model=best), resolve_model(best)
        run_claim.check_writable(run, needed_bytes=needed_disk_bytes(source, training.save_total_limit))
    with training.main_process_first():
        source, from_scratch = fetch_for_training(source, request.model.from_scratch, is_demo)
    return request.with_options(from_scratch=from_scratch), source


def run_training(
    setup: TrainingSetup,
    screened: Mapping[str, Any] | None = None,
    *,
    page: bool = True,
    callbacks: Callable[[ImageTrainer], list[TrainerCallback]] = NO_CALLBACKS,
) -> None:
    """Train, from where an earlier command left it, and write the run folder.

    screened: contents of the files about the checked images, by file name (`ScreeningResult.as_files`). page: also
    write the report and the model card. callbacks: additional callbacks of the training. Raises what
    `DatasetSplits.folds` raises before anything else.
    """
    run, data, training = setup.run, setup.config.data, setup.config.training
    folds = list(setup.splits.folds(data.folds, data.val_fraction, training.seed)) if data.folds else []
    base, setup = setup, setup.with_warm_start()
    searched = hyperparameter_search.searched_options(setup) if setup.config.tune.search else ()
    claim = run_claim.RunClaim(run, setup.config.option_values(), setup.splits.table(), searched)
    state = claim.take(fresh=setup.config.command.fresh, write=training.should_save)
    if state == "finished":
        log.info("%s is finished: nothing to train (--fresh starts over)", run.path)
        if training.should_save and page:
            from imgcls.experiment import run_results

            run_results.complete_pages(run, setup.splits, training.device)
        return
    if training.should_save:
        results = screened or {}
        run.write_csv(run_folder.EXCLUDE, run_folder.EXCLUDE_COLUMNS, results.get(run_folder.EXCLUDE, ()))
        run.write_json(run_folder.CHECK, results.get(run_folder.CHECK, []))
    cross_validation = None
    if folds:
        probe_logits = setup.out_of_fold_logits() if training.should_save else {}
        cross_validation = cross_validate(base, folds, probe_logits)
    if setup.config.tune.search:
        setup = hyperparameter_search.run_search(setup)
    trainer = _fit(setup, callbacks)
    from imgcls.experiment import run_results  # 100 MB and a second that training does not need

    selection = weight_selection.select_weights(
        trainer, setup.config.tune.keep_weights, weight_selection.default_weights(setup.config)
    )
    run_results.write_results(trainer, setup, selection, cross_validation, page=page)


def _fit(setup: TrainingSetup, callbacks: Callable[[ImageTrainer], list[TrainerCallback]]) -> ImageTrainer:
    def make(batch: int, accumulation: int) -> ImageTrainer:
        trainer = make_trainer(setup, batch, accumulation)
        for callback in callbacks(trainer):
            trainer.add_callback(callback)
        return trainer

    return fit.fit(make, setup.config.training, setup.run, setup.config.performance.compile)


def cross_validate(
    setup: TrainingSetup, folds: Sequence[DatasetSplits], probe_logits: Mapping[str, np.ndarray]
) -> dict[str, Any] | None:
    """Train one run per fold, below the run's folder; returns the metrics of all images by runs that held them out.

    setup: before its warm start, since each fold chooses for itself. probe_logits: see
    `TrainingSetup.out_of_fold_logits`. Writes out_of_fold.csv and its logits. Returns the keys of a split in
    metrics.json and `folds`, `accuracy_by_fold`; None on ranks that do not write.
    """
    training, run = setup.config.training, setup.run
    config = replace(setup.config.with_options(folds=None), command=CommandOptions())
    fold_runs = [RunFolder(run / run_folder.FOLDS / f"{k + 1}") for k in range(len(folds))]
    for k, (fold_run, fold) in enumerate(zip(fold_runs, folds, strict=True)):
        log.info("fold %d of %d", k + 1, len(folds))
        run_training(replace(setup, config=config, splits=fold, run=fold_run), page=False)
        if training.should_save:
            run_claim.remove_weights(fold_run)
        clear_device_cache(garbage_collection=True)  # trainers are part of reference cycles
    if not training.should_save:
        return None
    return _pool_folds(run, fold_runs, setup.splits.classes, probe_logits)


def _pool_folds(
    run: RunFolder, fold_runs: Sequence[RunFolder], classes: Sequence[str], probe_logits: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Write the held-out predictions of all folds as one table, and return their metrics."""
    rows, fold_logits = [], []
    for k, fold_run in enumerate(fold_runs):
        held_out = [row for row in fold_run.read_csv(run_folder.PREDICTIONS) if row["split"] == "test"]
        rows += [row | {"split": f"fold {k + 1}"} for row in held_out]
        fold_logits.append(fold_run.read_logits()["test"])
    logits = np.concatenate(fold_logits)
    run.write_csv(run_folder.OUT_OF_FOLD, run_folder.PREDICTION_COLUMNS, [tuple(row.values()) for row in rows])
    probes = {"probes": np.stack([probe_logits[row["path"]] for row in rows])} if probe_logits else {}
    run.write_logits(run_folder.OUT_OF_FOLD_LOGITS, out_of_fold=logits, **probes)
    metrics = compute_metrics(logits, [classes.index(row["label"]) for row in rows], classes)
    by_fold = [fold_run.read_json(run_folder.METRICS)["test"]["accuracy"] for fold_run in fold_runs]
    return {"folds": len(fold_runs), "accuracy_by_fold": by_fold, **metrics}
