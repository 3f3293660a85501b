"""What a run shows and keeps while it goes on: one bar, one line an evaluation, history.jsonl, seconds spent."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable

from tqdm import tqdm
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from imgcls.storage import run_folder

log = logging.getLogger(__name__)

LOG_EVERY_S = 1.0  # on accelerators, at most


class EvaluateEveryEpochsCallback(TrainerCallback):
    """Evaluate and save after every N-th epoch and after the last, where Trainer knows every epoch only."""

    def __init__(self, epochs: int):
        self.epochs = epochs

    def on_epoch_end(self, args, state, control, **kwargs):
        last = control.should_training_stop or state.global_step >= state.max_steps
        if not last and round(state.epoch) % self.epochs:
            control.should_evaluate = control.should_save = False
        return control


class StopwatchCallback(TrainerCallback, ExportableState):
    """Seconds spent training, over all restarts: a checkpoint carries them on."""

    def __init__(self):
        self.seconds = 0.0
        self._last = None

    def on_train_begin(self, args, state, control, **kwargs):
        self._last = time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        self._count()

    def on_evaluate(self, args, state, control, **kwargs):
        self._count()

    def _count(self) -> None:
        if self._last is not None:  # None while the best model is evaluated after training
            now = time.monotonic()
            self.seconds += now - self._last
            self._last = now

    def on_train_end(self, args, state, control, **kwargs):
        self._last = None

    def state(self) -> dict:
        """What a checkpoint keeps of this callback, in Trainer's form."""
        return {"args": {}, "attributes": {"seconds": self.seconds}}


class HistoryCallback(TrainerCallback):
    """history.jsonl: one line per log or evaluation, rewritten whole, so that a resumed run leaves no double lines."""

    def __init__(self, run: run_folder.RunFolder):
        self.run = run

    def on_evaluate(self, args, state, control, **kwargs):
        self._write(state)

    def on_train_end(self, args, state, control, **kwargs):
        self._write(state)

    def _write(self, state) -> None:
        if state.is_world_process_zero:
            self.run.write_lines(run_folder.HISTORY, state.log_history)


class ProgressBarCallback(TrainerCallback):
    """One bar with loss, learning rate, images/s and time left, and a line of numbers after each evaluation."""

    def __init__(self, show_bar: bool, kept_share: Callable[[], float] | None = None):
        self.show_bar, self.kept_share = show_bar, kept_share
        self.bar = None
        self.logged = self.looked = 0.0
        self.shown: dict[str, float] = {}

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero and self.show_bar:
            self.bar = tqdm(
                total=state.max_steps, initial=state.global_step, unit="step", leave=False, dynamic_ncols=True
            )

    def on_step_end(self, args, state, control, **kwargs):
        # A log waits for the accelerator, which works on while the host is ahead. Several processes log together.
        is_ahead = args.device.type != "cpu" and args.world_size == 1
        if is_ahead and time.monotonic() < self.logged + LOG_EVERY_S:
            control.should_log = False
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)
            self._show_kept(state.epoch)
        return control

    def _show_kept(self, epoch: float) -> None:
        """While the first epoch decodes photos and keeps them, say how far that is."""
        if self.kept_share is None or time.monotonic() < self.looked + LOG_EVERY_S:
            return
        self.looked, share = time.monotonic(), self.kept_share() if epoch <= 1 else 1.0
        if 0 < share < 1:
            self.bar.set_description_str(f"keeping photos {share:.0%}")
        else:
            self.bar.set_description_str("")
            self.kept_share = None if share == 1 else self.kept_share

    def on_epoch_end(self, args, state, control, **kwargs):
        control.should_log = True  # so that each evaluation's line shows the loss of its own epoch
        return control

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logged = time.monotonic()
        self.shown |= logs or {}
        if self.bar is not None and "loss" in logs:
            self.bar.set_postfix_str(
                f"loss {logs['loss']:.3f}, lr {logs['learning_rate']:.1e}, {logs['images_per_second']:.0f} img/s"
            )

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        if not state.is_world_process_zero:
            return
        numbers = {
            "loss": self.shown.get("loss"),
            "val loss": metrics["eval_loss"],
            "accuracy": metrics["eval_accuracy"],
            "macro F1": metrics["eval_macro_f1"],
        }
        line = "  ".join(f"{name} {value:.3f}" for name, value in numbers.items() if value is not None)
        speed, waiting = self.shown.get("images_per_second"), self.shown.get("waiting")
        line = f"epoch {state.epoch:4.1f}  {line}" + (f"  {speed:.0f} img/s" if speed else "")
        line += f", {waiting:.0%} of it waiting for images" if waiting else ""
        if self.bar is not None:
            tqdm.write(line, file=sys.stderr)
        else:
            log.info(line)

    def on_train_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.close()
            self.bar = None
