"""--search: Optuna over learning rate, weight decay and layer decay, through `Trainer.hyperparameter_search`."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import nn

from imgcls.config.training_config import TrainingRequest
from imgcls.errors import LaunchError, ModelError, OptionError
from imgcls.experiment.setup import TrainingSetup
from imgcls.experiment.trainer_factory import make_trainer
from imgcls.storage import run_folder
from imgcls.training.diagnosis_callback import DiagnosisCallback
from imgcls.training.trainer import ImageTrainer

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)

SPACE = ("learning_rate", "weight_decay", "layer_decay")
UNPRUNED_TRIALS = 3  # later trials are compared with these


def check_search_options(request: TrainingRequest) -> None:
    """Raise OptionError if nothing is left to search or Optuna is missing, LaunchError with several processes."""
    if not _searched(request.tune.tune, request.given):
        raise OptionError(f"Expected one of {', '.join(SPACE)} left to --search, got all of them. Omit one.")
    if request.training.world_size > 1:
        raise LaunchError("Expected --search in one process, got several. Search in one, then give what it found.")
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise OptionError("Expected optuna for --search, got none. Install it: pip install optuna") from error


def _searched(mode: str, given: frozenset[str]) -> list[str]:
    """The options to search: those that the user did not set; --tune head has no layers for a decay."""
    return [name for name in SPACE if name not in given and not (mode == "head" and name == "layer_decay")]


def searched_options(setup: TrainingSetup) -> list[str]:
    """Names of options that the run determines itself: the searched ones, and --search once it has ended."""
    config = setup.config
    trials = setup.run.read_json(run_folder.SEARCH) or []
    return _searched(config.mode, config.given) + (["search"] if len(trials) == config.tune.search else [])


def run_search(setup: TrainingSetup) -> TrainingSetup:
    """Return the setup with the options of the best of --search trials, by validation loss.

    The loss, not accuracy: on few images many trials share an accuracy. The first trial is the recipe itself, so the
    result is never worse than without a search. Losing trials are pruned. All are stored, so a stopped search resumes.
    options.yaml then holds what was found and no --search: given as --config, it trains just this.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    config, trials = setup.config, setup.config.value("search")
    searched = _searched(config.mode, config.given)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    file = setup.run / run_folder.STUDY
    file.parent.mkdir(exist_ok=True)
    storage = JournalStorage(JournalFileBackend(str(file)))
    study = optuna.create_study(storage=storage, study_name="search", direction="minimize", load_if_exists=True)
    states = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)  # not those that were stopped
    ended = len(study.get_trials(states=states))
    if not ended:
        study.enqueue_trial({name: config.value(name) for name in searched})
    if ended < trials:
        # An earlier command's seed would sample its trials again.
        seed = config.training.seed + len(study.trials)
        options = {
            "storage": storage,
            "study_name": "search",
            "load_if_exists": True,
            "sampler": optuna.samplers.TPESampler(n_startup_trials=UNPRUNED_TRIALS, seed=seed),
            "pruner": optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED_TRIALS),
        }
        _run_trials(setup, searched, ended, options)
        clear_device_cache(garbage_collection=True)  # trainers are part of reference cycles
    best = study.best_trial
    log.info("search: best trial: %s, loss %.3f", _describe(best.params), best.value)
    pruned = optuna.trial.TrialState.PRUNED
    rows = [
        {**trial.params, "loss": trial.value, "cut_short": trial.state == pruned}
        for trial in study.get_trials(states=states)
    ]
    setup.run.write_json(run_folder.SEARCH, rows)
    setup = replace(setup, config=config.with_options(**best.params))
    setup.run.write_options(setup.config.option_values() | {"search": None})
    return setup


def _run_trials(setup: TrainingSetup, searched: list[str], ended: int, options: dict[str, Any]) -> None:
    """Run trials `ended` + 1 to --search, each from the same initial weights, in a temporary folder."""
    config, trials = setup.config, setup.config.value("search")
    with tempfile.TemporaryDirectory() as folder:
        trial_config = config.with_options(
            save_strategy="no", load_best_model_at_end=False, early_stopping_patience=None
        )
        training = config.training
        trial_setup = replace(setup, config=trial_config, run=run_folder.RunFolder(folder))
        trainer = make_trainer(trial_setup, training.per_device_train_batch_size, training.gradient_accumulation_steps)
        trainer.remove_callback(DiagnosisCallback)  # its findings belong to the run itself, not to trials
        trainer.model_init = _restorer(trainer)  # pyright: ignore[reportAttributeAccessIssue]
        space = _SearchSpace(trainer, {name: config.value(name) for name in searched}, ended, trials)
        try:
            trainer.hyperparameter_search(
                space.suggest, lambda metrics: metrics["eval_loss"], trials - ended, "minimize", "optuna", **options
            )
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            raise ModelError(
                f"Expected a batch of {training.per_device_train_batch_size} to fit in memory, got an error. Give "
                "a smaller --batch_size with --search, and --fresh."
            ) from error


def _restorer(trainer: ImageTrainer) -> Callable[[], nn.Module]:
    """Return a `model_init` that puts the trainer's module back into its initial state."""
    module = trainer.model
    initial = {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}

    def restore() -> nn.Module:
        trainer.reset_to(initial)
        return module

    return restore


class _SearchSpace:
    """What a trial tries: values around the recipe's. base: option -> the recipe's value, of the searched options."""

    def __init__(self, trainer: ImageTrainer, base: dict[str, float], ended: int, trials: int):
        self.trainer, self.base, self.started, self.trials = trainer, base, ended, trials

    def suggest(self, trial: optuna.Trial) -> dict[str, float]:
        """Return the values of TrainingArguments for a trial; the layer decay goes to the trainer directly."""
        self.started += 1
        values = {}
        for name, lowest, highest in (("learning_rate", 1 / 8, 4), ("weight_decay", 1 / 10, 10)):
            if name in self.base:
                center = max(self.base[name], 1e-6)
                values[name] = trial.suggest_float(name, lowest * center, highest * center, log=True)
        if "layer_decay" in self.base:
            decay = trial.suggest_float("layer_decay", 0.6, 1.0)
            self.trainer.learning_rates = replace(self.trainer.learning_rates, layer_decay=decay)
        log.info("search: trial %d of %d: %s", self.started, self.trials, _describe(trial.params))
        return values


def _describe(params: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in params.items())
