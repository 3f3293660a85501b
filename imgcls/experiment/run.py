"""A run from its claim on a folder to its results; with --folds, also a run a fold, judged on what it never saw."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from accelerate.utils.memory import clear_device_cache
from transformers import TrainerCallback
from transformers.trainer_utils import HubStrategy

from imgcls.config.data_options import DataOptions
from imgcls.config.model_options import AugmentOptions, ModelOptions, TuneOptions
from imgcls.config.training_options import TrainingOptions
from imgcls.data.splits import DatasetSplits
from imgcls.errors import LaunchError, OptionError
from imgcls.evaluation.metrics import compute_metrics
from imgcls.experiment import hyperparameter_search, weight_selection
from imgcls.experiment.setup import TrainingSetup
from imgcls.storage import run_claim, run_folder
from imgcls.training import fit
from imgcls.training.trainer import ImageTrainer

log = logging.getLogger(__name__)


def check_options(
    data: DataOptions, wanted: ModelOptions, tune: TuneOptions, augment: AugmentOptions, args: TrainingOptions, given
) -> None:
    """Raises OptionError or LaunchError for options that make no sense together. given: names that the user gave."""
    if tune.tune == "head" and (augment.mixup or augment.cutmix):
        raise OptionError("Expected --tune head without --mixup and --cutmix: features are computed of whole images.")
    if tune.views > 1 and tune.tune != "head":
        raise OptionError(
            f"Expected --views with --tune head, got it with {tune.tune}: other modes see a new crop each epoch."
        )
    if data.folds and (tune.search or wanted.model == "auto"):
        raise OptionError(
            f"Expected --folds without {'--search' if tune.search else '--model auto'}, got both: what is chosen would "
            "have seen the images that folds judge. Choose first, then give what was found with --folds."
        )
    if wanted.model == "auto" and args.world_size > 1:
        raise LaunchError("Expected --model auto in one process, got several. Name what recommend.py --measure picks.")
    spread = args.fsdp or os.environ.get("ACCELERATE_USE_FSDP") == "true"
    if spread and (tune.tune in ("head", "lora") or tune.ema or tune.search):
        raise OptionError("Expected FSDP without --tune head, --tune lora, --ema and --search: leave one of them out.")
    if spread and args.push_to_hub and args.hub_strategy != HubStrategy.END:
        raise OptionError("Expected --hub_strategy end with FSDP, got every_save: no process has the whole model then.")
    if tune.search:
        hyperparameter_search.check_search_options(tune, args, given)


def run_training(
    asked: TrainingSetup,
    screened: Mapping[str, object] | None = None,
    *,
    given=(),
    fresh: bool = False,
    page: bool = True,
    callbacks: Callable[[ImageTrainer], list[TrainerCallback]] = lambda trainer: [],
) -> None:
    """Train what is asked for, from where an earlier command left it, and write the run folder.

    screened: what was found about the images, by the name of the file that keeps it (`ScreeningResult.as_files`).
    given: names
    of options that the user gave, which no search changes. fresh: start over. page: with report.html. callbacks: of the
    training itself, beside its own. Raises what `DatasetSplits.folds` raises before anything else.
    """
    folder, args, splits = asked.run, asked.args, asked.splits
    folds = list(splits.folds(asked.data.folds, asked.data.val_fraction, args.seed)) if asked.data.folds else []
    setup = asked.prepared()
    searched = hyperparameter_search.searched_options(setup, given) if setup.tune.search else ()
    claim = run_claim.RunClaim(folder, setup.options(), splits.table(), searched)
    state = claim.take(fresh=fresh, write=args.should_save)
    if state == "finished":
        log.info("%s is finished: nothing to train (--fresh starts over)", folder.path)
        if args.should_save and page:
            from imgcls.experiment import run_results

            run_results.complete_pages(folder, splits, args.device)
        return
    if args.should_save:
        found = screened or {}
        folder.write_csv(run_folder.EXCLUDE, run_folder.EXCLUDE_COLUMNS, found.get(run_folder.EXCLUDE, ()))
        folder.write_json(run_folder.CHECK, found.get(run_folder.CHECK, []))
    judged = cross_validate(asked, folds, setup.opinions() if args.should_save else {}) if folds else None
    if setup.tune.search:
        hyperparameter_search.run_search(setup, given)

    def make_trainer(batch: int, accumulation: int) -> ImageTrainer:
        trainer = setup.trainer(batch, accumulation)
        for callback in callbacks(trainer):
            trainer.add_callback(callback)
        return trainer

    trained = fit.fit(make_trainer, setup.args, folder, setup.speed.compile)
    from imgcls.experiment import run_results

    selected = weight_selection.select_weights(trained, setup.tune.keep, setup.expected)
    run_results.write_results(trained, splits, folder, selected, judged, setup.sources(), setup.kept, page=page)


def cross_validate(
    asked: TrainingSetup, fold_splits: Sequence[DatasetSplits], opinions: Mapping[str, np.ndarray]
) -> dict | None:
    """A run for each fold, in run folders below the run's, and the numbers of all images by runs that never saw them.

    opinions: see `TrainingSetup.opinions`. None on ranks that do not write. Writes out_of_fold.csv and its logits.
    Besides
    the numbers of metrics.json's parts: `folds`, and `accuracy_by_fold`.
    """
    count, args, splits = len(fold_splits), asked.args, asked.splits
    folds = [run_folder.RunFolder(asked.run / run_folder.FOLDS / f"{k + 1}") for k in range(count)]
    for k, part in enumerate(fold_splits):
        log.info("fold %d of %d", k + 1, count)
        run_training(replace(asked, data=replace(asked.data, folds=None), splits=part, run=folds[k]), page=False)
        if args.should_save:
            run_claim.remove_weights(folds[k])
        clear_device_cache(garbage_collection=True)  # trainers hold themselves in circles
    if not args.should_save:
        return None
    rows, logits = [], []
    for k, fold in enumerate(folds):
        tested = [row for row in fold.read_csv(run_folder.PREDICTIONS) if row["split"] == "test"]
        rows += [tuple((row | {"split": f"fold {k + 1}"}).values()) for row in tested]
        logits.append(fold.read_logits()["test"])
    asked.run.write_csv(run_folder.OUT_OF_FOLD, run_folder.PREDICTION_COLUMNS, rows)
    paths = [row[run_folder.PREDICTION_COLUMNS.index("path")] for row in rows]
    probes = {"probes": np.stack([opinions[path] for path in paths])} if opinions else {}
    asked.run.write_logits(run_folder.OUT_OF_FOLD_LOGITS, out_of_fold=np.concatenate(logits), **probes)
    labels = [splits.classes.index(row[run_folder.PREDICTION_COLUMNS.index("label")]) for row in rows]
    numbers = compute_metrics(np.concatenate(logits), labels, splits.classes)
    by_fold = [fold.read_json(run_folder.METRICS)["test"]["accuracy"] for fold in folds]
    return {"folds": count, "accuracy_by_fold": by_fold, **numbers}
