"""Measure images per second, and the fraction of a step's time that it waits for images."""

from __future__ import annotations

import time

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class ThroughputCallback(TrainerCallback):
    """Times the steps of a training: waiting is the time between two steps, working the time within them."""

    def __init__(self):
        self.waiting_s = self.working_s = 0.0
        self._last: float | None = None  # when the last step began or ended; None before the first
        self._logged_step, self._logged_time = 0, time.monotonic()
        self._logged_waiting_s = self._logged_working_s = 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        self._last = None
        self._logged_step, self._logged_time = state.global_step, time.monotonic()

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        now = time.monotonic()
        if self._last is not None:
            self.waiting_s += now - self._last
        self._last = now

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        now = time.monotonic()
        if self._last is not None:
            self.working_s += now - self._last
        self._last = now

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        self._restart_clock()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        self._restart_clock()

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        self._restart_clock()

    def _restart_clock(self) -> None:
        """Count logging, saving and evaluation neither as waiting nor as working."""
        if self._last is not None:
            self._last = time.monotonic()

    @property
    def waiting_fraction(self) -> float | None:
        """Fraction of all steps' time spent waiting for images; None when no step was timed."""
        total_s = self.waiting_s + self.working_s
        return self.waiting_s / total_s if total_s else None

    def since_last_log(self, step: int, images_per_step: int) -> dict[str, float]:
        """{"images_per_second", "waiting"} since the last call, or since training began."""
        now = time.monotonic()
        images = (step - self._logged_step) * images_per_step
        waiting_s = self.waiting_s - self._logged_waiting_s
        working_s = self.working_s - self._logged_working_s
        rates = {
            "images_per_second": round(images / (now - self._logged_time), 1),
            "waiting": round(waiting_s / max(waiting_s + working_s, 1e-9), 3),
        }
        self._logged_step, self._logged_time = step, now
        self._logged_waiting_s, self._logged_working_s = self.waiting_s, self.working_s
        return rates
