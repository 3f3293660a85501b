"""Callbacks of a training: one progress bar, one line per evaluation, history.jsonl, seconds spent."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable

from tqdm import tqdm
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from imgcls.config.training_options import TrainingOptions
from imgcls.storage import run_folder

log = logging.getLogger(__name__)

LOG_EVERY_S = 1.0  # at most, on accelerators
# A checkpoint stores the state of a callback under the name of its class: earlier name -> name.
FORMER_CLASS_NAMES = {"Stopwatch": "StopwatchCallback"}


class EvaluateEveryEpochsCallback(TrainerCallback):
    """Evaluate and save after every N-th epoch and after the last; Trainer itself only has every epoch."""

    def __init__(self, epochs: int):
        self.epochs = epochs

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs
    ) -> TrainerControl:
        last = control.should_training_stop or state.global_step >= state.max_steps
        if not last and round(state.epoch) % self.epochs:
            control.should_evaluate = control.should_save = False
        return control


class StopwatchCallback(TrainerCallback, ExportableState):
    """Seconds spent training, over all restarts: checkpoints store them."""

    def __init__(self):
        self.seconds = 0.0
        self._last = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        self._last = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        self._add_elapsed()

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        self._add_elapsed()

    def _add_elapsed(self) -> None:
        if self._last is not None:  # None while the best model is evaluated after training
            now = time.monotonic()
            self.seconds += now - self._last
            self._last = now

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        self._last = None

    def state(self) -> dict:
        """What a checkpoint stores of this callback, in Trainer's form."""
        return {"args": {}, "attributes": {"seconds": self.seconds}}


class HistoryCallback(TrainerCallback):
    """history.jsonl: one line per log or evaluation; rewritten each time, so that resuming repeats no line."""

    def __init__(self, run: run_folder.RunFolder):
        self.run = run

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        self._write(state)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        self._write(state)

    def _write(self, state: TrainerState) -> None:
        if state.is_world_process_zero:
            self.run.write_lines(run_folder.HISTORY, state.log_history)


class ProgressBarCallback(TrainerCallback):
    """One bar with loss, learning rate, images/s and time left, and a line of metrics after each evaluation.

    cache_progress: fraction of the training images in the pixel cache, shown during the first epoch.
    """

    def __init__(self, show_bar: bool, cache_progress: Callable[[], float] | None = None):
        self.show_bar, self.cache_progress = show_bar, cache_progress
        self.bar: tqdm | None = None
        self.last_log_time = self.last_cache_time = 0.0
        self.latest_logs: dict[str, float] = {}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        if state.is_world_process_zero and self.show_bar:
            self.bar = tqdm(
                total=state.max_steps, initial=state.global_step, unit="step", leave=False, dynamic_ncols=True
            )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs
    ) -> TrainerControl:
        # A log waits for the accelerator, which otherwise works while the host prepares the next steps. Several
        # processes must log together.
        is_asynchronous = args.device.type != "cpu" and args.world_size == 1
        if is_asynchronous and time.monotonic() < self.last_log_time + LOG_EVERY_S:
            control.should_log = False
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)
            self._show_cache_progress(self.bar, state.epoch)
        return control

    def _show_cache_progress(self, bar: tqdm, epoch: float) -> None:
        """While the first epoch decodes and caches the images, show how many are done."""
        if self.cache_progress is None or time.monotonic() < self.last_cache_time + LOG_EVERY_S:
            return
        self.last_cache_time = time.monotonic()
        fraction = self.cache_progress() if epoch <= 1 else 1.0
        bar.set_description_str(f"caching images {fraction:.0%}" if 0 < fraction < 1 else "")
        if fraction == 1:
            self.cache_progress = None

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs
    ) -> TrainerControl:
        control.should_log = True  # so that each evaluation's line shows the loss of its own epoch
        return control

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs,
    ) -> None:
        self.last_log_time = time.monotonic()
        self.latest_logs |= logs or {}
        if self.bar is not None and logs and "loss" in logs:
            self.bar.set_postfix_str(
                f"loss {logs['loss']:.3f}, lr {logs['learning_rate']:.1e}, {logs['images_per_second']:.0f} img/s"
            )

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs,
    ) -> None:
        if metrics is None or not state.is_world_process_zero:
            return
        line = self._evaluation_line(state.epoch, metrics)
        if self.bar is not None:
            tqdm.write(line, file=sys.stderr)
        else:
            log.info(line)

    def _evaluation_line(self, epoch: float, metrics: dict[str, float]) -> str:
        values = {
            "loss": self.latest_logs.get("loss"),
            "val loss": metrics["eval_loss"],
            "accuracy": metrics["eval_accuracy"],
            "macro F1": metrics["eval_macro_f1"],
        }
        parts = [f"epoch {epoch:4.1f}", *(f"{name} {value:.3f}" for name, value in values.items() if value is not None)]
        speed, waiting = self.latest_logs.get("images_per_second"), self.latest_logs.get("waiting")
        if speed:
            parts.append(f"{speed:.0f} img/s")
        return "  ".join(parts) + (f", {waiting:.0%} of the time waiting for images" if waiting else "")

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def make_callbacks(
    args: TrainingOptions,
    run: run_folder.RunFolder,
    others: Iterable[TrainerCallback],
    cache_progress: Callable[[], float] | None = None,
) -> list[TrainerCallback]:
    """The callbacks of a training, with `others` among them. cache_progress: see `ProgressBarCallback`."""
    progress_bar = ProgressBarCallback(not args.disable_tqdm, cache_progress)
    callbacks = [StopwatchCallback(), HistoryCallback(run), progress_bar, *others]
    if args.eval_strategy == "epoch":
        callbacks.append(EvaluateEveryEpochsCallback(args.eval_every_epochs))
    if args.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(args.early_stopping_patience))
    return callbacks
