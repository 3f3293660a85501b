"""A run from its claim on a folder to its results; with --folds, also a run a fold, judged on what it never saw."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from imgcls import artifacts, fitting, results, search, selection
from imgcls.metrics import ImageClassification
from imgcls.tuning import Setup

log = logging.getLogger(__name__)


def run(asked: Setup, *, given=(), fresh: bool = False, excluded: Iterable[tuple[str, str]] = ()) -> None:
    """Train what is asked for, from where an earlier command left it, and write the run folder.

    given: names of options that the user gave, which no search changes. fresh: start over. excluded: path and reason
    of images that were left out.
    """
    setup = asked.prepared()
    folder, args = setup.run, setup.args
    found_later = [name for name in search.SPACE if setup.tune.search and name not in given]
    table = setup.division.table()
    state = folder.claim(setup.options(), table, fresh=fresh, write=args.should_save, found_later=found_later)
    if state == "finished":
        log.info("%s is finished: nothing to train (--fresh starts over)", folder.path)
        return
    if args.should_save:
        folder.write_csv(artifacts.EXCLUDE, artifacts.EXCLUDE_COLUMNS, excluded)
    judged = cross_validate(asked) if setup.data.folds else None
    if setup.tune.search:
        search.improve(setup, given)
        folder.write_options(setup.options())
    trained = fitting.fit(setup.trainer, args, folder)
    results.write(trained, setup.division, folder, selection.keep_best(trained, setup.tune.keep), judged)


def cross_validate(asked: Setup) -> dict | None:
    """A run for each fold, in run folders below the run's, and the numbers of all images by runs that never saw them.

    None on ranks that do not write. Writes out_of_fold.csv and its logits. Besides the numbers of metrics.json's
    parts: `folds`, and `accuracy_by_fold`.
    """
    count, args, division = asked.data.folds, asked.args, asked.division
    folds = [artifacts.RunFolder(asked.run / artifacts.FOLDS / f"{k + 1}") for k in range(count)]
    for k, part in enumerate(division.folds(count, asked.data.val_fraction, args.seed)):
        log.info("fold %d of %d", k + 1, count)
        run(replace(asked, data=replace(asked.data, folds=None), division=part, run=folds[k]))
        if args.should_save:
            folds[k].drop_weights()
    if not args.should_save:
        return None
    rows, logits = [], []
    for k, fold in enumerate(folds):
        tested = [row for row in fold.read_csv(artifacts.PREDICTIONS) if row["split"] == "test"]
        rows += [tuple((row | {"split": f"fold {k + 1}"}).values()) for row in tested]
        logits.append(fold.read_logits()["test"])
    asked.run.write_csv(artifacts.OUT_OF_FOLD, artifacts.PREDICTION_COLUMNS, rows)
    asked.run.write_logits(artifacts.OUT_OF_FOLD_LOGITS, out_of_fold=np.concatenate(logits))
    labels = [division.classes.index(row[artifacts.PREDICTION_COLUMNS.index("label")]) for row in rows]
    numbers = ImageClassification(division.classes).compute(predictions=np.concatenate(logits), references=labels)
    by_fold = [fold.read_json(artifacts.METRICS)["test"]["accuracy"] for fold in folds]
    return {"folds": count, "accuracy_by_fold": by_fold, **numbers}
