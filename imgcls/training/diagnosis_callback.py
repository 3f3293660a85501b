"""A callback that logs the findings of `evaluation.diagnosis` during training."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from imgcls.evaluation import diagnosis
from imgcls.training.throughput import ThroughputCallback

log = logging.getLogger(__name__)

MIN_STEPS = 20  # before the throughput is judged


class DiagnosisCallback(TrainerCallback):
    """Logs each finding once, when it appears.

    latest_metrics: gives the metrics of the latest evaluation, None before the first.
    """

    def __init__(
        self,
        task: diagnosis.TrainingTask,
        throughput: ThroughputCallback,
        latest_metrics: Callable[[], dict | None],
    ):
        self.task, self.throughput, self.latest_metrics = task, throughput, latest_metrics
        self.reported: set[str] = set()  # codes of findings

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        self._report(diagnosis.initial_findings(self.task))

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        done = state.global_step / max(state.max_steps, 1)
        self._report(diagnosis.history_findings(self.task, state.log_history, done))
        if state.global_step >= MIN_STEPS:
            waiting_s, working_s = self.throughput.waiting_s, self.throughput.working_s
            remaining_s = (waiting_s + working_s) * (1 / max(done, 1e-9) - 1)
            self._report(diagnosis.throughput_findings(waiting_s, working_s, remaining_s, args.dataloader_num_workers))

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        done = state.global_step / max(state.max_steps, 1)
        self._report(diagnosis.evaluation_findings(self.task, state.log_history, done))
        metrics = self.latest_metrics()
        if done > 1 / 3 and metrics is not None:
            self._report(diagnosis.prediction_findings(self.task, metrics))

    def _report(self, findings: Iterator[dict]) -> None:
        for finding in findings:
            if finding["code"] not in self.reported:
                self.reported.add(finding["code"])
                log.info(diagnosis.finding_text(finding))

    def finish(self, history: Sequence[dict], metrics: dict) -> list[dict]:
        """All findings that hold at the end of a run, one per code, for diagnosis.json."""
        findings = [
            *diagnosis.initial_findings(self.task),
            *diagnosis.history_findings(self.task, history, 1.0),
            *diagnosis.evaluation_findings(self.task, history, 1.0),
            *diagnosis.prediction_findings(self.task, metrics),
            *diagnosis.final_findings(self.task, history, metrics),
            *diagnosis.throughput_findings(self.throughput.waiting_s, self.throughput.working_s, 0.0, 0),
        ]
        return list({finding["code"]: finding for finding in reversed(findings)}.values())[::-1]
