"""Rules that recognise common training problems; each finding has its evidence and what to do.

A rule is a function of the task and the history so far, so a resumed run has the same findings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from imgcls.config.recipes import SKEWED_RATIO
from imgcls.evaluation.intervals import standard_error, wilson_interval

FEW_IMAGES = 10_000  # below this, random weights are far worse than pretrained ones
WIDE_INTERVAL = 0.13  # half width of the 95 % interval of accuracy above which models cannot be compared
MIN_CLASS_IMAGES = 5  # with fewer validation images of a class, its recall is mostly chance
DATA_BOUND = 0.5  # fraction of a step spent waiting for images
LONG_S = 3_600.0


@dataclass(frozen=True)
class TrainingTask:
    """What the rules know about a training. train_counts: training images per class, (K,)."""

    classes: Sequence[str]
    train_counts: Sequence[int]
    validation_images: int
    pretrained: bool = True
    is_demo: bool = False
    head_only: bool = False
    balanced: bool = False
    smoothing: float = 0.0

    @property
    def chance_loss(self) -> float:
        """Training loss of a model that predicts the class frequencies for every image."""
        k = len(self.classes)
        if self.balanced:
            return math.log(k)
        frequencies = [count / sum(self.train_counts) for count in self.train_counts]
        logs = [math.log(max(frequency, 1e-9)) for frequency in frequencies]
        entropy = -sum(frequency * log_p for frequency, log_p in zip(frequencies, logs, strict=True))
        return (1 - self.smoothing) * entropy - self.smoothing * sum(logs) / k

    @property
    def least_loss(self) -> float:
        """Lowest possible training loss: above 0 with label smoothing."""
        k, s = len(self.classes), self.smoothing
        parts = [1 - s + s / k] + [s / k] * (k - 1)
        return -sum(p * math.log(p) for p in parts if p > 0)


def finding(code: str, severity: str, evidence: str, advice: str) -> dict[str, str]:
    """One entry of diagnosis.json. severity: "error", "warning" or "info"."""
    return {"code": code, "severity": severity, "evidence": evidence, "advice": advice}


def finding_text(entry: Mapping[str, str]) -> str:
    """A finding as one line."""
    return f"{entry['severity']}: {entry['code']}: {entry['evidence']}. {entry['advice']}"


def initial_findings(task: TrainingTask) -> Iterator[dict]:
    """Findings before the first step."""
    images = sum(task.train_counts)
    if not (task.pretrained or task.is_demo or images >= FEW_IMAGES):
        yield finding(
            "scratch_on_few_images",
            "warning",
            f"random weights and {images:,} training images, fewer than {FEW_IMAGES:,}",
            "Remove --from_scratch: pretrained weights are far better on datasets of this size.",
        )
    smallest, largest = min(task.train_counts), max(task.train_counts)
    if largest > SKEWED_RATIO * max(smallest, 1):
        small, large = (task.classes[list(task.train_counts).index(n)] for n in (smallest, largest))
        yield finding(
            "imbalance",
            "warning",
            f"{large!r} has {largest} training images, {small!r} has {smallest}",
            "Compare models by macro F1, not by accuracy, and add images of small classes"
            + ("." if task.balanced else "; try --class_weights balanced."),
        )
    low, high = wilson_interval(round(0.8 * task.validation_images), task.validation_images)
    if (high - low) / 2 > WIDE_INTERVAL:
        yield finding(
            "tiny_validation",
            "warning",
            f"{task.validation_images} validation images: a measured accuracy of 0.8 may be {low:.2f} or {high:.2f}",
            "Do not choose between models by it; raise --val_fraction or add images.",
        )


def history_findings(task: TrainingTask, history: Sequence[Mapping], progress: float) -> Iterator[dict]:
    """Findings from the training losses so far. history: Trainer's log. progress: fraction of the run, 0..1."""
    losses = _training_losses(history)
    if not losses:
        return
    chance, last = task.chance_loss, _mean(losses[-max(1, len(losses) // 3) :])
    # with class weights, one image of a rare class may weigh as much as a batch: a single loss means little
    has_spike = not task.balanced and max(losses[1:], default=0) > 3 * chance
    if not all(map(math.isfinite, losses)) or has_spike or last > 1.3 * chance:
        worst = max(losses, key=lambda loss: loss if math.isfinite(loss) else math.inf)
        yield finding(
            "diverged",
            "error",
            f"the training loss reached {worst:.2f}; guessing gives {chance:.2f}",
            "Divide --lr by 10; if --fp16 is set, train without it.",
        )
    elif progress >= 1 / 3 and last > 0.93 * chance:
        yield finding(
            "not_learning",
            "error",
            f"the training loss is {last:.2f}; guessing gives {chance:.2f}",
            "Multiply --lr by 10 or --epochs by 3, and check that the images in each folder show its class.",
        )
    elif progress >= 1 / 3:
        yield from _stagnation(task, losses, progress)


def _stagnation(task: TrainingTask, losses: Sequence[float], progress: float) -> Iterator[dict]:
    """A training loss that does not fall although it is far from the lowest possible one."""
    chance, third = task.chance_loss, len(losses) // 3
    if task.head_only or len(losses) < 6:
        return
    first, last = _mean(losses[:third]), _mean(losses[-third:])
    if last > 0.2 * chance and last > 0.97 * first and progress > 0.9 and last - task.least_loss > 0.1 * chance:
        yield finding(
            "not_learning",
            "error",
            f"the training loss was {first:.2f} in the first third of the run and {last:.2f} in the last",
            "Multiply --lr by 10; if that does not help, check the images and their labels.",
        )


def evaluation_findings(task: TrainingTask, history: Sequence[Mapping], progress: float) -> Iterator[dict]:
    """At most one finding from the validation metrics so far, the most serious one."""
    evaluations = [entry for entry in history if math.isfinite(entry.get("eval_loss") or math.nan)]
    losses = _training_losses(history)
    if len(evaluations) < 3 or not losses or progress < 1 / 3:
        return
    result = (
        _no_better_than_guessing(task, evaluations, progress)
        or _rising_validation_loss(task, history, evaluations)
        or _memorisation(task, losses, evaluations[-1])
        or _plateau(evaluations)
    )
    if result:
        yield result


def _no_better_than_guessing(task: TrainingTask, evaluations: Sequence[Mapping], progress: float) -> dict | None:
    best = max(entry["eval_balanced_accuracy"] for entry in evaluations)
    guess = 1 / len(task.classes)
    if not (progress > 0.9 and best < guess + 2 * standard_error(guess, task.validation_images)):
        return None
    return finding(
        "not_learning",
        "error",
        f"the best balanced accuracy on validation images is {best:.2f}; guessing gives {guess:.2f}",
        "Check that the images in each folder show its class: the labels seem unrelated to the images.",
    )


def _rising_validation_loss(
    task: TrainingTask, history: Sequence[Mapping], evaluations: Sequence[Mapping]
) -> dict | None:
    lowest, last = min(evaluations, key=lambda entry: entry["eval_loss"]), evaluations[-1]
    since = len(evaluations) - 1 - evaluations.index(lowest)
    before = [e["loss"] for e in history if "loss" in e and e["step"] <= lowest["step"]]
    after = [e["loss"] for e in history if "loss" in e and e["step"] > lowest["step"]]
    error = standard_error(lowest["eval_accuracy"], task.validation_images)
    is_better = last["eval_accuracy"] > lowest["eval_accuracy"] + error
    # label smoothing lowers the confidence of correct predictions too, which alone raises plain cross-entropy
    limit = 1.2 * lowest["eval_loss"] + task.smoothing
    rises = since >= max(2, len(evaluations) // 4) and last["eval_loss"] > limit and not is_better
    if not (rises and before and after and _mean(after[-3:]) < _mean(before[-3:])):
        return None
    return finding(
        "overfitting",
        "warning",
        f"the validation loss rose from {lowest['eval_loss']:.2f} (epoch {lowest['epoch']:.0f}) to "
        f"{last['eval_loss']:.2f} while the training loss fell to {_mean(after[-3:]):.2f}",
        "Train for fewer --epochs, set --early_stopping_patience 3 or --augment heavy, use a smaller --model, or add "
        "images.",
    )


def _memorisation(task: TrainingTask, losses: Sequence[float], last: Mapping) -> dict | None:
    chance, training_loss = task.chance_loss, _mean(losses[-3:])
    if not (training_loss - task.least_loss < 0.1 * chance and last["eval_loss"] > 0.7 * chance):
        return None
    return finding(
        "overfitting",
        "warning",
        f"the training loss is {training_loss:.2f} (lowest possible: {task.least_loss:.2f}), the validation loss "
        f"{last['eval_loss']:.2f}; guessing gives {chance:.2f}",
        "The model memorised the images: set --augment heavy or --tune head, use a smaller --model, or add images.",
    )


def _plateau(evaluations: Sequence[Mapping]) -> dict | None:
    lowest = min(evaluations, key=lambda entry: entry["eval_loss"])
    highest = max(evaluations, key=lambda entry: (entry["eval_accuracy"], -entry["eval_loss"]))
    idle = len(evaluations) - 1 - max(evaluations.index(highest), evaluations.index(lowest))
    if not (idle >= max(5, len(evaluations) // 2) and highest["eval_accuracy"] < 0.98):
        return None
    return finding(
        "plateau",
        "info",
        f"no better evaluation since epoch {evaluations[-1 - idle]['epoch']:.0f} of {evaluations[-1]['epoch']:.0f}",
        "Fewer --epochs or --early_stopping_patience 5 give the same result in less time.",
    )


def prediction_findings(task: TrainingTask, metrics: Mapping) -> Iterator[dict]:
    """Findings from the metrics of one evaluation, as in metrics.json."""
    matrix = metrics["confusion_matrix"]
    predicted = [sum(column) for column in zip(*matrix, strict=True)]
    most, total = max(predicted), sum(predicted)
    if most >= 0.98 * total and sum(1 for row in matrix if sum(row)) > 1:
        name = task.classes[predicted.index(most)]
        yield finding(
            "one_class_predictions",
            "error",
            f"{most} of {total} validation images were predicted as {name!r}",
            "Train for more --epochs, try --class_weights balanced, and check the images of that class.",
        )


def final_findings(task: TrainingTask, history: Sequence[Mapping], metrics: Mapping) -> Iterator[dict]:
    """Findings that need a finished training. metrics: of the validation images, as in metrics.json."""
    losses = _training_losses(history)
    reach = task.chance_loss - task.least_loss
    remaining = (_mean(losses[-3:]) - task.least_loss) / reach if losses and reach > 0 else 0.0
    if 0.4 < remaining <= 0.9 and metrics["accuracy"] < 0.9:
        yield finding(
            "underfitting",
            "warning",
            f"the training loss ended at {_mean(losses[-3:]):.2f}, between {task.least_loss:.2f} (always correct) and "
            f"{task.chance_loss:.2f} (guessing)",
            "Use a larger --model, more --epochs, a higher --lr, or --augment light.",
        )
    weak = [
        f"{name} {numbers['recall']:.2f} of {numbers['support']}"
        for name, numbers in metrics["per_class"].items()
        if _is_weak(numbers, metrics["accuracy"])
    ]
    if weak:
        yield finding(
            "weak_classes",
            "warning",
            f"recall far below the accuracy of {metrics['accuracy']:.2f}: {', '.join(weak[:5])}",
            "Add images of these classes, look for wrong labels among them, or try --class_weights balanced.",
        )


def _is_weak(numbers: Mapping, accuracy: float) -> bool:
    """Whether the recall of a class is significantly below the accuracy.

    Significance at 99 %, since with many classes the lowest recall is low by chance.
    """
    support = numbers["support"]
    if support < MIN_CLASS_IMAGES:
        return False
    return wilson_interval(round(numbers["recall"] * support), support, z=2.58)[1] < accuracy - 0.1


def throughput_findings(waiting_s: float, working_s: float, remaining_s: float, workers: int) -> Iterator[dict]:
    """Findings from where the time is spent. remaining_s: expected duration of the rest. workers: loader processes."""
    waiting = waiting_s / max(waiting_s + working_s, 1e-9)
    if waiting > DATA_BOUND and waiting_s > 5:
        yield finding(
            "data_bound",
            "warning",
            f"{waiting:.0%} of the time is spent waiting for images",
            f"Raise --dataloader_num_workers (now {workers}), put the images on a faster disk, or make them smaller.",
        )
    elif remaining_s > LONG_S and waiting < 0.2:
        yield finding(
            "compute_bound",
            "info",
            f"about {remaining_s / 3600:.1f} h to go, and {1 - waiting:.0%} of the time is spent in the network",
            "Use a smaller --model or --image_px, --tune head, a larger --batch_size, or a GPU.",
        )


def bottleneck(waiting: float) -> str:
    """What limits the speed of training, in words. waiting: fraction of the steps' time spent waiting for images."""
    cause = "loading images" if waiting > 0.5 else "the processor"
    return f"{cause} (waiting for images takes {waiting:.0%} of the time)"


def out_of_memory(batch: int, accumulation: int) -> dict:
    """The finding of a run whose batch had to be halved."""
    return finding(
        "out_of_memory",
        "warning",
        f"out of memory: the batch became {batch} x {accumulation} accumulated (the same effective batch)",
        "Set this --batch_size from the start, or use a smaller --model or --image_px.",
    )


def _training_losses(history: Sequence[Mapping]) -> list[float]:
    return [entry["loss"] for entry in history if "loss" in entry]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
