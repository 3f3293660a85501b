"""A callback that says the pitfalls of training while a run goes on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence

from transformers import TrainerCallback

from imgcls.evaluation import diagnosis

log = logging.getLogger(__name__)


class DiagnosisCallback(TrainerCallback):
    """Says each finding once, when it appears. numbers: gives the latest evaluation's numbers, None before it."""

    def __init__(self, task: diagnosis.TrainingTask, numbers: Callable[[], dict | None]):
        self.task, self.numbers, self.said = task, numbers, set()
        self.waiting_s = self.working_s = 0.0
        self._mark = None

    def on_train_begin(self, args, state, control, **kwargs):
        self._say(diagnosis.initial_findings(self.task))

    def on_step_begin(self, args, state, control, **kwargs):
        if self._mark is not None:
            self.waiting_s += time.monotonic() - self._mark
        self._mark = time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        self.working_s += time.monotonic() - self._mark
        self._mark = time.monotonic()

    def on_log(self, args, state, control, **kwargs):
        self._mark = None if self._mark is None else time.monotonic()
        done = state.global_step / max(state.max_steps, 1)
        self._say(diagnosis.history_findings(self.task, state.log_history, done))
        spent = self.waiting_s + self.working_s
        if state.global_step >= 20:
            self._say(
                diagnosis.throughput_findings(
                    self.waiting_s, self.working_s, spent * (1 / max(done, 1e-9) - 1), args.dataloader_num_workers
                )
            )

    def on_save(self, args, state, control, **kwargs):
        self._mark = None if self._mark is None else time.monotonic()

    def on_evaluate(self, args, state, control, **kwargs):
        self._mark = None if self._mark is None else time.monotonic()
        done = state.global_step / max(state.max_steps, 1)
        self._say(diagnosis.evaluation_findings(self.task, state.log_history, done))
        if done > 1 / 3 and self.numbers() is not None:
            self._say(diagnosis.prediction_findings(self.task, self.numbers()))

    @property
    def waiting_share(self) -> float | None:
        """Share of the steps' time that went by waiting for images, not computing; None when no step was timed."""
        spent = self.waiting_s + self.working_s
        return self.waiting_s / spent if spent else None

    def _say(self, findings: Iterator[dict]) -> None:
        for entry in findings:
            if entry["code"] not in self.said:
                self.said.add(entry["code"])
                log.info(diagnosis.in_words(entry))

    def finish(self, history: Sequence[dict], numbers: dict) -> list[dict]:
        """All findings of a finished run, for diagnosis.json: those that hold at its end, and its pace."""
        found = [
            *diagnosis.initial_findings(self.task),
            *diagnosis.history_findings(self.task, history, 1.0),
            *diagnosis.evaluation_findings(self.task, history, 1.0),
            *diagnosis.prediction_findings(self.task, numbers),
            *diagnosis.final_findings(self.task, history, numbers),
            *diagnosis.throughput_findings(self.waiting_s, self.working_s, 0.0, 0),
        ]
        return list({entry["code"]: entry for entry in reversed(found)}.values())[::-1]
