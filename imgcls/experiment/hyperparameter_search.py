"""--search: Optuna over learning rate, weight decay and layer decay, through `Trainer.hyperparameter_search`."""

from __future__ import annotations

import logging
import tempfile
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING

from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import nn

from imgcls.config.model_options import TuneOptions
from imgcls.config.training_options import TrainingOptions
from imgcls.errors import LaunchError, ModelError, OptionError
from imgcls.experiment.setup import TrainingSetup
from imgcls.storage import run_folder
from imgcls.training.diagnosis_callback import DiagnosisCallback

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)

SPACE = ("learning_rate", "weight_decay", "layer_decay")
UNPRUNED_TRIALS = 3  # what later trials are compared with


def check_search_options(tune: TuneOptions, args: TrainingOptions, given) -> None:
    """Raises OptionError when nothing is left to search or Optuna is missing, LaunchError in several processes."""
    if not _free(tune.tune, given):
        raise OptionError(f"Expected one of {', '.join(SPACE)} left to --search, got all of them. Leave one out.")
    if args.world_size > 1:
        raise LaunchError("Expected --search in one process, got several. Search in one, then give what it found.")
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise OptionError("Expected optuna for --search, got none. Install it: pip install optuna") from error


def _free(mode: str, given) -> list[str]:
    """Options of SPACE that may be changed; a head alone has no layers."""
    return [name for name in SPACE if name not in given and not (mode == "head" and name == "layer_decay")]


def searched_options(setup: TrainingSetup, given) -> list[str]:
    """Options that the run finds out: what is searched, and once it was, --search itself (see `run_search`)."""
    trials = setup.run.read_json(run_folder.SEARCH) or []
    return _free(setup.mode, given) + (["search"] if len(trials) == setup.tune.search else [])


def run_search(setup: TrainingSetup, given) -> None:
    """Set the options of SPACE that are not `given` to those of the best of --search trials, by validation loss.

    The loss, not accuracy: on few images many trials share an accuracy. The first trial is the recipe itself, so the
    search never ends worse than it began. Trials that lose are cut short, and all are kept: a stopped search goes on.
    options.yaml then holds what was found, and no --search, so that it trains just this as --config.
    """
    import optuna

    wanted, free = setup.tune.search, _free(setup.mode, given)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    file = setup.run / run_folder.STUDY
    file.parent.mkdir(exist_ok=True)
    kept = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(file)))
    study = optuna.create_study(storage=kept, study_name="search", direction="minimize", load_if_exists=True)
    state = optuna.trial.TrialState
    ended = study.get_trials(states=(state.COMPLETE, state.PRUNED))  # not those that were stopped
    if not ended:
        study.enqueue_trial({name: value for name, value in _values(setup).items() if name in free})
    if len(ended) < wanted:
        sampler = optuna.samplers.TPESampler(
            n_startup_trials=UNPRUNED_TRIALS, seed=setup.args.seed + len(study.trials)
        )  # the same seed would draw the trials again that an earlier command had
        pruner = optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED_TRIALS)
        options = {"storage": kept, "study_name": "search", "load_if_exists": True}
        _run_trials(setup, free, len(ended), {**options, "sampler": sampler, "pruner": pruner})
        clear_device_cache(garbage_collection=True)  # trainers hold themselves in circles
    ended = study.get_trials(states=(state.COMPLETE, state.PRUNED))
    best = study.best_trial
    for name, value in best.params.items():
        setattr(setup.tune if hasattr(setup.tune, name) else setup.args, name, value)
    log.info("search: the best: %s, loss %.3f", _in_words(best.params), best.value)
    rows = [{**t.params, "loss": t.value, "cut_short": t.state == state.PRUNED} for t in ended]
    setup.run.write_json(run_folder.SEARCH, rows)
    setup.run.write_options(setup.options() | {"search": None})


def _values(setup: TrainingSetup) -> dict[str, float]:
    return {name: getattr(setup.tune if hasattr(setup.tune, name) else setup.args, name) for name in SPACE}


def _run_trials(setup: TrainingSetup, free: list[str], done: int, options: dict) -> None:
    """Trials `done` + 1 to --search, each from the same initial weights, in a folder that is thrown away."""
    args, wanted, base = copy(setup.args), setup.tune.search, _values(setup)
    args.save_strategy, args.load_best_model_at_end, args.early_stopping_patience = "no", False, None
    started = done
    with tempfile.TemporaryDirectory() as folder:
        aside = replace(setup, args=args, run=run_folder.RunFolder(folder))
        trainer = aside.trainer(args.per_device_train_batch_size, args.gradient_accumulation_steps)
        trainer.remove_callback(DiagnosisCallback)  # what it has to say, it says of the run itself
        module = trainer.model
        initial = {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}

        def anew() -> nn.Module:
            trainer.reset_to(initial)
            return module

        def space(trial: optuna.Trial) -> dict:
            nonlocal started
            started += 1
            found = {}
            for name, lowest, highest in (("learning_rate", 1 / 8, 4), ("weight_decay", 1 / 10, 10)):
                if name in free:
                    middle = max(base[name], 1e-6)
                    found[name] = trial.suggest_float(name, lowest * middle, highest * middle, log=True)
            if "layer_decay" in free:
                decay = trial.suggest_float("layer_decay", 0.6, 1.0)
                trainer.learning_rates = replace(trainer.learning_rates, layer_decay=decay)
            log.info("search: trial %d of %d: %s", started, wanted, _in_words(trial.params))
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
                "a smaller --batch_size with --search, and --fresh."
            ) from error


def _in_words(params: dict) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in params.items())
