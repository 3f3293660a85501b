"""Findings are logged during training, each once, and those that hold at the end are returned."""

import logging
from types import SimpleNamespace

from imgcls.evaluation.diagnosis import TrainingTask
from imgcls.training.diagnosis_callback import DiagnosisCallback
from imgcls.training.throughput import ThroughputCallback

TASK = TrainingTask(["a", "b", "c", "d"], [50, 50, 50, 50], 100)  # guessing costs ln 4 = 1.386


def test_diagnosis_callback_logs_a_finding_once(caplog):
    throughput = ThroughputCallback()
    throughput.waiting_s, throughput.working_s = 22.0, 7.5
    callback = DiagnosisCallback(TASK, throughput, lambda: None)
    state = SimpleNamespace(global_step=0, max_steps=40, log_history=[])
    args = SimpleNamespace(dataloader_num_workers=0)
    with caplog.at_level(logging.INFO):
        callback.on_train_begin(args, state, None)
        for step in range(1, 31):
            state.global_step = step
            state.log_history.append({"loss": 0.5 - 0.01 * step, "step": step})
            callback.on_evaluate(args, state, None)
            callback.on_log(args, state, None)
            assert ("data_bound" in caplog.text) == (step >= 20)
    assert caplog.text.count("data_bound") == 1


def test_finish_returns_what_holds_at_the_end():
    callback = DiagnosisCallback(TASK, ThroughputCallback(), lambda: None)
    metrics = {
        "accuracy": 0.25,
        "confusion_matrix": [[25, 0, 0, 0]] * 4,
        "per_class": {"a": {"recall": 1.0, "support": 25}, "b": {"recall": 0.0, "support": 25}},
    }
    history = [{"loss": 1.39, "step": 10 * (i + 1)} for i in range(9)]
    codes = [finding["code"] for finding in callback.finish(history, metrics)]
    assert codes == ["not_learning", "one_class_predictions"]
