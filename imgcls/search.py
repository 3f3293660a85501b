"""--search: Optuna over learning rate, epochs and weight decay, through `Trainer.hyperparameter_search`."""

from __future__ import annotations

import logging
import tempfile
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING

from accelerate.utils.memory import should_reduce_batch_size
from torch import nn

from imgcls import artifacts
from imgcls.diagnosis import Diagnosis
from imgcls.errors import LaunchError, ModelError, OptionError
from imgcls.tuning import Setup

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)

SPACE = ("learning_rate", "num_train_epochs", "weight_decay")
UNPRUNED_TRIALS = 3  # what later trials are compared with


def improve(setup: Setup, given) -> None:
    """Set the options of SPACE that are not `given` to those of the best of --search trials, by validation loss.

    The loss, not accuracy: on few images many trials share an accuracy. The first trial is the recipe itself, so the
    search never ends worse than it began. Trials that lose are cut short, and all are kept: a stopped search goes on.
    """
    args, wanted = setup.args, setup.tune.search
    free = [name for name in SPACE if name not in given]
    _check(setup, free)
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    file = setup.run / artifacts.STUDY
    file.parent.mkdir(exist_ok=True)
    options = {
        "study_name": "search",
        "storage": optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(file))),
        "load_if_exists": True,
        "sampler": optuna.samplers.TPESampler(seed=args.seed),
        "pruner": optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED_TRIALS),
    }
    study = optuna.create_study(direction="minimize", **options)
    if not study.trials:
        study.enqueue_trial({name: getattr(args, name) for name in free})
    ended = [trial for trial in study.trials if trial.state.is_finished()]
    if len(ended) < wanted:
        _run_trials(setup, free, len(ended), options)
    best = study.best_trial
    for name, value in best.params.items():
        setattr(args, name, value)
    log.info("search: the best is trial %d, %s, loss %.3f", best.number + 1, _in_words(best.params), best.value)
    setup.run.write_json(
        artifacts.SEARCH,
        [
            {"trial": t.number + 1, **t.params, "loss": t.value, "cut_short": t.state == optuna.trial.TrialState.PRUNED}
            for t in study.trials
        ],
    )


def _check(setup: Setup, free: list[str]) -> None:
    if not free:
        raise OptionError(f"Expected one of {', '.join(SPACE)} left to --search, got all of them. Leave one out.")
    if setup.args.world_size > 1:
        raise LaunchError(
            "Expected --search in one process, got several. Search in one, then give what it found to all of them."
        )
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise OptionError("Expected optuna for --search, got none. Install it: pip install optuna") from error


def _run_trials(setup: Setup, free: list[str], done: int, options: dict) -> None:
    """Trials `done` + 1 to --search, each from the same initial weights, in a folder that is thrown away."""
    args, wanted = copy(setup.args), setup.tune.search
    args.save_strategy, args.load_best_model_at_end, args.early_stopping_patience = "no", False, None
    base = {name: getattr(args, name) for name in SPACE}
    with tempfile.TemporaryDirectory() as folder:
        aside = replace(setup, args=args, run=artifacts.RunFolder(folder))
        trainer = aside.trainer(args.per_device_train_batch_size, args.gradient_accumulation_steps)
        trainer.remove_callback(Diagnosis)  # what it has to say, it says of the run itself
        module = trainer.model
        initial = {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}

        def anew() -> nn.Module:
            module.load_state_dict(initial)
            if trainer.average:
                trainer.average.average.module.load_state_dict(initial)
            return module

        def space(trial: optuna.Trial) -> dict:
            found = {}
            if "learning_rate" in free:
                rate = base["learning_rate"]
                found["learning_rate"] = trial.suggest_float("learning_rate", rate / 8, rate * 4, log=True)
            if "num_train_epochs" in free:
                epochs = base["num_train_epochs"]
                found["num_train_epochs"] = trial.suggest_categorical("num_train_epochs", [epochs, 2 * epochs])
            if "weight_decay" in free:
                decay = max(base["weight_decay"], 1e-4)
                found["weight_decay"] = trial.suggest_float("weight_decay", decay / 10, decay * 10, log=True)
            log.info("search: trial %d of %d: %s", trial.number + 1, wanted, _in_words(found))
            return found

        trainer.model_init = anew
        try:
            trainer.hyperparameter_search(
                space, lambda metrics: metrics["eval_loss"], wanted - done, "minimize", "optuna", **options
            )
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            raise ModelError(
                f"Expected a batch of {args.per_device_train_batch_size} to fit in memory, got an error. Give "
                "a smaller --batch_size with --search."
            ) from error


def _in_words(params: dict) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in params.items())
