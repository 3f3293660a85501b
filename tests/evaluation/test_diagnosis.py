"""Findings of a training, each where it applies and not elsewhere."""

import math

import pytest

from imgcls.evaluation import diagnosis
from imgcls.evaluation.diagnosis import TrainingTask

TASK = TrainingTask(["a", "b", "c", "d"], [50, 50, 50, 50], 100)  # guessing costs ln 4 = 1.386
HEALTHY = [1.3, 1.0, 0.7, 0.5, 0.4, 0.3, 0.25, 0.2, 0.2]


def codes(findings):
    return [entry["code"] for entry in findings]


def logged(losses):
    return [{"loss": loss, "step": 10 * (i + 1)} for i, loss in enumerate(losses)]


def evaluated(losses, eval_losses, accuracies, balanced=None):
    """A history of one log and one evaluation an epoch."""
    entries = []
    for i, (loss, eval_loss, accuracy) in enumerate(zip(losses, eval_losses, accuracies, strict=True)):
        entries.append({"loss": loss, "step": 10 * (i + 1)})
        entries.append(
            {
                "eval_loss": eval_loss,
                "eval_accuracy": accuracy,
                "eval_balanced_accuracy": accuracy if balanced is None else balanced,
                "step": 10 * (i + 1),
                "epoch": i + 1.0,
            }
        )
    return entries


@pytest.mark.parametrize(
    ("pretrained", "is_demo", "images", "warned"),
    [(False, False, 9_998, True), (False, False, 10_000, False), (True, False, 100, False), (False, True, 100, False)],
)
def test_initial_findings_name_random_weights_on_few_images(pretrained, is_demo, images, warned):
    task = TrainingTask(["a", "b"], [images // 2] * 2, 1_000, pretrained=pretrained, is_demo=is_demo)
    assert codes(diagnosis.initial_findings(task)) == ["scratch_on_few_images"] * warned


@pytest.mark.parametrize(("counts", "named"), [([50, 10], False), ([51, 10], True), ([100, 1], True)])
def test_initial_findings_name_imbalance(counts, named):
    assert codes(diagnosis.initial_findings(TrainingTask(["a", "b"], counts, 100))) == ["imbalance"] * named


@pytest.mark.parametrize(("images", "named"), [(6, True), (30, True), (43, False), (200, False)])
def test_initial_findings_name_a_tiny_validation_set(images, named):
    assert codes(diagnosis.initial_findings(TrainingTask(["a", "b"], [50, 50], images))) == ["tiny_validation"] * named


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        (HEALTHY, []),
        ([1.39] * 9, ["not_learning"]),
        ([0.9] * 9, ["not_learning"]),  # below guessing, but flat
        ([0.2] * 9, []),  # a probe's head that leaves nothing to learn
        ([1.3, math.nan, 1.0], ["diverged"]),
        ([1.3, 900.0, 1.38, 1.38], ["diverged"]),
        ([1.3, 1.5, 1.9, 2.5], ["diverged"]),
        ([], []),
    ],
)
def test_history_findings_judge_the_loss(losses, expected):
    assert codes(diagnosis.history_findings(TASK, logged(losses), 1.0)) == expected


def test_history_findings_allow_a_slow_start():
    assert codes(diagnosis.history_findings(TASK, logged([1.39, 1.38]), 0.2)) == []


def test_chance_loss_follows_class_frequencies_and_label_smoothing():
    assert TrainingTask(["a", "b"], [95, 5], 9).chance_loss == pytest.approx(
        -0.95 * math.log(0.95) - 0.05 * math.log(0.05)
    )
    assert TrainingTask(["a", "b"], [95, 5], 9, balanced=True).chance_loss == pytest.approx(math.log(2))
    smooth = TrainingTask(["a", "b"], [50, 50], 9, smoothing=0.1)
    assert smooth.chance_loss == pytest.approx(math.log(2))
    assert smooth.least_loss == pytest.approx(-0.95 * math.log(0.95) - 0.05 * math.log(0.05))
    assert TASK.least_loss == 0


@pytest.mark.parametrize(
    ("losses", "eval_losses", "accuracies", "expected"),
    [
        (HEALTHY, [1.2, 0.9, 0.7, 0.6, 0.5, 0.5, 0.5, 0.5, 0.49], [0.4, 0.6, 0.7, 0.8, 0.8, 0.8, 0.8, 0.8, 0.82], []),
        (HEALTHY, [1.2, 0.9, 0.7, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1], [0.4, 0.6, 0.7] + [0.7] * 6, ["overfitting"]),
        ([0.5, 0.1, 0.01, 0.01], [1.3, 1.2, 1.2, 1.2], [0.4, 0.4, 0.4, 0.41], ["overfitting"]),
        (HEALTHY, [1.39] * 9, [0.25] * 9, ["not_learning"]),  # labels that say nothing
        (HEALTHY, [1.2, 0.9, 0.7] + [0.72] * 6, [0.4, 0.6, 0.8] + [0.79] * 6, ["plateau"]),
        (HEALTHY, [0.2, 0.1, 0.05] + [0.06] * 6, [0.9, 0.95, 0.99] + [0.985] * 6, []),  # nothing is left to gain
    ],
)
def test_evaluation_findings_judge_loss_and_accuracy(losses, eval_losses, accuracies, expected):
    assert codes(diagnosis.evaluation_findings(TASK, evaluated(losses, eval_losses, accuracies), 1.0)) == expected


def test_prediction_findings_name_a_single_predicted_class():
    task = TrainingTask(["a", "b"], [10, 10], 10)
    (finding,) = diagnosis.prediction_findings(task, {"confusion_matrix": [[0, 6], [0, 4]]})
    assert finding["code"] == "one_class_predictions"
    assert finding["evidence"] == "10 of 10 validation images were predicted as 'b'"
    assert codes(diagnosis.prediction_findings(task, {"confusion_matrix": [[1, 5], [0, 4]]})) == []
    assert (
        codes(diagnosis.prediction_findings(task, {"confusion_matrix": [[0, 0], [0, 4]]})) == []
    )  # only that class is there


@pytest.mark.parametrize(
    ("recall", "support", "named"), [(0.2, 40, True), (0.2, 4, False), (0.0, 4, False), (0.7, 40, False)]
)
def test_final_findings_name_weak_classes_unless_chance_explains_them(recall, support, named):
    numbers = {"accuracy": 0.85, "per_class": {"a": {"recall": recall, "support": support}, "b": {"support": 0}}}
    assert codes(diagnosis.final_findings(TASK, logged(HEALTHY), numbers)) == ["weak_classes"] * named


@pytest.mark.parametrize(("loss", "accuracy", "named"), [(0.9, 0.6, True), (0.9, 0.95, False), (0.3, 0.6, False)])
def test_final_findings_name_underfitting(loss, accuracy, named):
    numbers = {"accuracy": accuracy, "per_class": {}}
    assert codes(diagnosis.final_findings(TASK, logged([1.3, loss, loss, loss]), numbers)) == ["underfitting"] * named


@pytest.mark.parametrize(
    ("waiting", "working", "left", "expected"),
    [(60, 40, 0, ["data_bound"]), (3, 2, 0, []), (20, 80, 9e3, []), (5, 95, 9e3, ["compute_bound"]), (5, 95, 60, [])],
)
def test_throughput_findings_name_the_bottleneck(waiting, working, left, expected):
    assert codes(diagnosis.throughput_findings(waiting, working, left, workers=0)) == expected


def test_history_findings_allow_single_high_losses_with_class_weights():
    spikes = logged([1.8, 6.0, 1.2, 0.9, 5.6, 0.8, 0.7, 0.6, 0.6])  # a batch with an image of a rare class
    weighted = TrainingTask(["a", "b", "c", "d"], [100, 40, 16, 3], 40, balanced=True)
    assert codes(diagnosis.history_findings(weighted, spikes, 1.0)) == []
    assert codes(diagnosis.history_findings(weighted, logged([1.8, 4.0, 9.0, 30.0]), 1.0)) == ["diverged"]


def test_evaluation_findings_allow_the_higher_loss_of_label_smoothing():
    history = evaluated(HEALTHY, [0.13, 0.21] + [0.22] * 7, [0.97] + [0.96] * 8)
    assert "overfitting" in codes(diagnosis.evaluation_findings(TASK, history, 1.0))
    smooth = TrainingTask(TASK.classes, TASK.train_counts, TASK.validation_images, smoothing=0.1)
    assert "overfitting" not in codes(diagnosis.evaluation_findings(smooth, history, 1.0))
