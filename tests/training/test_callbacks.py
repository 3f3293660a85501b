"""Callbacks of a run: when it is evaluated, how long it took, what is stored and shown."""

import json
import logging
from types import SimpleNamespace

import pytest
import torch

from imgcls.storage.run_folder import RunFolder
from imgcls.training import callbacks


def state(step=0, epoch=0.0, max_steps=10, log_history=(), first=True):
    return SimpleNamespace(
        global_step=step, epoch=epoch, max_steps=max_steps, log_history=list(log_history), is_world_process_zero=first
    )


@pytest.mark.parametrize(("every", "evaluated"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (3, [3, 5]), (9, [5])])
def test_evaluate_every_epochs_evaluates_every_nth_and_the_last(every, evaluated):
    epochs = []
    for epoch in range(1, 6):
        control = SimpleNamespace(should_training_stop=False, should_evaluate=True, should_save=True)
        callbacks.EvaluateEveryEpochsCallback(every).on_epoch_end(None, state(2 * epoch, float(epoch)), control)
        assert control.should_save == control.should_evaluate  # the best model is always one that was saved
        if control.should_evaluate:
            epochs.append(epoch)
    assert epochs == evaluated


def test_stopwatch_counts_over_restarts_but_not_between_them(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: now[0])
    watch = callbacks.StopwatchCallback()
    watch.on_train_begin(None, state(), None)
    now[0] = 103.0
    watch.on_step_end(None, state(1), None)
    resumed = callbacks.StopwatchCallback.from_state(watch.state())
    now[0] = 500.0
    resumed.on_train_begin(None, state(1), None)
    now[0] = 502.0
    resumed.on_evaluate(None, state(2), None)
    resumed.on_train_end(None, state(2), None)
    now[0] = 600.0
    resumed.on_evaluate(None, state(2), None)  # after training
    assert resumed.seconds == 5.0


def test_history_is_complete_after_each_evaluation(tmp_path):
    history = callbacks.HistoryCallback(RunFolder(tmp_path))
    for count in (1, 2):
        history.on_evaluate(None, state(log_history=[{"step": i} for i in range(count)]), None)
        lines = (tmp_path / "history.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(count))
    history.on_evaluate(None, state(log_history=[], first=False), None)  # other processes write nothing
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 2


def test_progress_bar_logs_at_the_end_of_each_epoch():
    control = SimpleNamespace(should_log=False)
    assert callbacks.ProgressBarCallback(show_bar=False).on_epoch_end(None, state(3, 1.0), control).should_log


@pytest.mark.parametrize(("kind", "processes", "logs"), [("cpu", 1, True), ("cuda", 1, False), ("cuda", 2, True)])
def test_progress_bar_logs_at_most_once_a_second_on_one_accelerator(kind, processes, logs):
    bar, control = callbacks.ProgressBarCallback(show_bar=False), SimpleNamespace(should_log=True)
    bar.on_log(None, state(1), control, logs={})
    bar.on_step_end(SimpleNamespace(device=torch.device(kind), world_size=processes), state(2), control)
    assert control.should_log is logs


@pytest.mark.parametrize("show_bar", [False, True])
def test_progress_bar_writes_a_line_after_each_evaluation(show_bar, caplog, capsys):
    bar = callbacks.ProgressBarCallback(show_bar)
    metrics = {"eval_loss": 0.5, "eval_accuracy": 0.75, "eval_macro_f1": 0.7}
    with caplog.at_level(logging.INFO):
        bar.on_train_begin(None, state(), None)
        bar.on_step_end(SimpleNamespace(device=torch.device("cpu"), world_size=1), state(1), None)
        bar.on_log(None, state(1), None, logs={"loss": 1.25, "learning_rate": 1e-3, "images_per_second": 80.0})
        bar.on_evaluate(None, state(1, 0.5), None, metrics=metrics)
        bar.on_train_end(None, state(1), None)
    line = "epoch  0.5  loss 1.250  val loss 0.500  accuracy 0.750  macro F1 0.700  80 img/s"
    assert line in (capsys.readouterr().err if show_bar else caplog.text)
    bar.on_evaluate(None, state(first=False), None, metrics=metrics)
    assert caplog.text.count("macro F1") == (0 if show_bar else 1)
