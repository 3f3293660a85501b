"""The common pitfalls of training: a rule each, whose findings say in words what is seen and what to do.

A rule is a function of what is known of the task and of the history so far, so a resumed run finds the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from imgcls.config.recipes import SKEWED_RATIO
from imgcls.evaluation.intervals import standard_error, wilson_interval

FEW_IMAGES = 10_000  # below, random weights lose to pretrained ones by far
WIDE = 0.13  # half of the 95 % interval of accuracy: models that differ by less cannot be told apart
FEW_OF_A_CLASS = 5  # with fewer validation images of a class, its recall tells nothing
DATA_BOUND = 0.5  # share of a step spent waiting for images
LONG_S = 3_600.0


@dataclass(frozen=True)
class TrainingTask:
    """What a diagnosis may know before the first step. train_counts: images of each class, (K,)."""

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
        """Training loss of a model that knows only how frequent each class is."""
        k = len(self.classes)
        if self.balanced:
            return math.log(k)
        shares = [count / sum(self.train_counts) for count in self.train_counts]
        logs = [math.log(max(share, 1e-9)) for share in shares]
        entropy = -sum(share * log_p for share, log_p in zip(shares, logs, strict=True))
        return (1 - self.smoothing) * entropy - self.smoothing * sum(logs) / k

    @property
    def least_loss(self) -> float:
        """Training loss of a model that is always right: above 0 with smoothed labels."""
        k, s = len(self.classes), self.smoothing
        parts = [1 - s + s / k] + [s / k] * (k - 1)
        return -sum(p * math.log(p) for p in parts if p > 0)


def finding(code: str, severity: str, evidence: str, advice: str) -> dict[str, str]:
    """One entry of diagnosis.json. severity: "error", "warning" or "info"."""
    return {"code": code, "severity": severity, "evidence": evidence, "advice": advice}


def in_words(entry: dict[str, str]) -> str:
    """A finding as one line."""
    return f"{entry['severity']}: {entry['code']}: {entry['evidence']}. {entry['advice']}"


def initial_findings(task: TrainingTask) -> Iterator[dict]:
    """Findings that are certain before the first step."""
    images = sum(task.train_counts)
    if not (task.pretrained or task.is_demo or images >= FEW_IMAGES):
        yield finding(
            "scratch_on_few_images",
            "warning",
            f"random weights and {images:,} images to train on, fewer than {FEW_IMAGES:,}",
            "Leave --from_scratch out: pretrained weights win by far on sets of this size.",
        )
    least, most = min(task.train_counts), max(task.train_counts)
    if most > SKEWED_RATIO * max(least, 1):
        small, large = (task.classes[list(task.train_counts).index(n)] for n in (least, most))
        yield finding(
            "imbalance",
            "warning",
            f"{large!r} has {most} images to train on, {small!r} has {least}",
            "Judge by macro F1, not by accuracy, and collect images of small classes"
            + ("." if task.balanced else "; try --class_weights balanced."),
        )
    low, high = wilson_interval(round(0.8 * task.validation_images), task.validation_images)
    if (high - low) / 2 > WIDE:
        yield finding(
            "tiny_validation",
            "warning",
            f"{task.validation_images} validation images: an accuracy of 0.8 could be {low:.2f} or {high:.2f}",
            "Do not choose between models by it; raise --val_fraction or add images.",
        )


def history_findings(task: TrainingTask, history: Sequence[dict], done: float) -> Iterator[dict]:
    """Findings from the losses so far. history: Trainer's log. done: share of the run, 0..1."""
    losses = [entry["loss"] for entry in history if "loss" in entry]
    if not losses:
        return
    chance, last = task.chance_loss, _mean(losses[-max(1, len(losses) // 3) :])
    # one image of a rare class may weigh as much as a batch, so with weights a single loss tells nothing
    spiked = not task.balanced and max(losses[1:], default=0) > 3 * chance
    if not all(map(math.isfinite, losses)) or spiked or last > 1.3 * chance:
        worst = max(losses, key=lambda loss: loss if math.isfinite(loss) else math.inf)
        yield finding(
            "diverged",
            "error",
            f"the training loss reached {worst:.2f}; guessing costs {chance:.2f}",
            "Lower --lr tenfold; with --fp16, train without it.",
        )
        return
    if done < 1 / 3:
        return
    if last > 0.93 * chance:
        yield finding(
            "not_learning",
            "error",
            f"the training loss stands at {last:.2f}; guessing costs {chance:.2f}",
            "Raise --lr tenfold or --epochs threefold, and look whether the folders hold what their names say.",
        )
    elif not task.head_only and len(losses) >= 6 and last > 0.2 * chance:
        first = _mean(losses[: len(losses) // 3])
        if last > 0.97 * first and done > 0.9 and last - task.least_loss > 0.1 * chance:
            yield finding(
                "not_learning",
                "error",
                f"the training loss was {first:.2f} in the first third of the run and {last:.2f} in the last",
                "Raise --lr tenfold; when that does not help, look at the images and their labels.",
            )


def evaluation_findings(task: TrainingTask, history: Sequence[dict], done: float) -> Iterator[dict]:
    """Findings from the validation numbers so far."""
    seen = [entry for entry in history if "eval_loss" in entry and math.isfinite(entry["eval_loss"] or math.nan)]
    losses = [entry["loss"] for entry in history if "loss" in entry]
    if len(seen) < 3 or not losses or done < 1 / 3:
        return
    chance, last = task.chance_loss, seen[-1]
    n = task.validation_images
    best = max(entry["eval_balanced_accuracy"] for entry in seen)
    guess = 1 / len(task.classes)
    if best < guess + 2 * standard_error(guess, n) and done > 0.9:
        yield finding(
            "not_learning",
            "error",
            f"the best balanced accuracy on validation images is {best:.2f}; guessing gives {guess:.2f}",
            "Look whether the folders hold what their names say: the labels seem unrelated to the images.",
        )
        return
    lowest = min(seen, key=lambda entry: entry["eval_loss"])
    since = len(seen) - 1 - seen.index(lowest)
    before = [e["loss"] for e in history if "loss" in e and e["step"] <= lowest["step"]]
    after = [e["loss"] for e in history if "loss" in e and e["step"] > lowest["step"]]
    no_better = last["eval_accuracy"] <= lowest["eval_accuracy"] + standard_error(lowest["eval_accuracy"], n)
    # a model that learns smoothed labels is less sure even where it is right: that alone raises plain cross-entropy
    margin = 1.2 * lowest["eval_loss"] + task.smoothing
    rises = since >= max(2, len(seen) // 4) and last["eval_loss"] > margin and no_better
    if rises and before and after and _mean(after[-3:]) < _mean(before[-3:]):
        yield finding(
            "overfitting",
            "warning",
            f"the validation loss rose from {lowest['eval_loss']:.2f} (epoch {lowest['epoch']:.0f}) to "
            f"{last['eval_loss']:.2f} while the training loss fell to {_mean(after[-3:]):.2f}",
            "Train for fewer --epochs or with --early_stopping_patience 3, take --augment heavy or a smaller --model, "
            "or add images.",
        )
        return
    if _mean(losses[-3:]) - task.least_loss < 0.1 * chance and last["eval_loss"] > 0.7 * chance:
        yield finding(
            "overfitting",
            "warning",
            f"the training loss is {_mean(losses[-3:]):.2f} (the least possible: {task.least_loss:.2f}), the "
            f"validation loss {last['eval_loss']:.2f}; guessing costs {chance:.2f}",
            "The images were learned by heart: take --augment heavy, a smaller --model or --tune head, or add images.",
        )
        return
    highest = max(seen, key=lambda entry: (entry["eval_accuracy"], -entry["eval_loss"]))
    idle = len(seen) - 1 - max(seen.index(highest), seen.index(lowest))
    if idle >= max(5, len(seen) // 2) and highest["eval_accuracy"] < 0.98:
        yield finding(
            "plateau",
            "info",
            f"no better evaluation since epoch {seen[-1 - idle]['epoch']:.0f} of {last['epoch']:.0f}",
            "Fewer --epochs or --early_stopping_patience 5 reach the same in less time.",
        )


def prediction_findings(task: TrainingTask, numbers: dict) -> Iterator[dict]:
    """Findings from one evaluation's numbers, as in metrics.json."""
    matrix = numbers["confusion_matrix"]
    predicted = [sum(column) for column in zip(*matrix, strict=True)]
    most, total = max(predicted), sum(predicted)
    if most >= 0.98 * total and sum(1 for row in matrix if sum(row)) > 1:
        name = task.classes[predicted.index(most)]
        yield finding(
            "one_class_predictions",
            "error",
            f"{most} of {total} validation images were called {name!r}",
            "Train for more --epochs, try --class_weights balanced, and look at the images of that class.",
        )


def final_findings(task: TrainingTask, history: Sequence[dict], numbers: dict) -> Iterator[dict]:
    """Findings that are only fair once training is over. numbers: of the validation images, as in metrics.json."""
    losses = [entry["loss"] for entry in history if "loss" in entry]
    reach = task.chance_loss - task.least_loss
    left = (_mean(losses[-3:]) - task.least_loss) / reach if losses and reach > 0 else 0.0
    if 0.4 < left <= 0.9 and numbers["accuracy"] < 0.9:
        yield finding(
            "underfitting",
            "warning",
            f"the training loss ended at {_mean(losses[-3:]):.2f}, between {task.least_loss:.2f} (always right) and "
            f"{task.chance_loss:.2f} (guessing)",
            "Take a larger --model, more --epochs, a higher --lr, or --augment light.",
        )
    weak = []
    for name, of in numbers["per_class"].items():
        if of["support"] >= FEW_OF_A_CLASS:
            # 99 %: many classes are looked at, and one of them is the lowest by chance
            high = wilson_interval(round(of["recall"] * of["support"]), of["support"], z=2.58)[1]
            if high < numbers["accuracy"] - 0.1:
                weak.append(f"{name} {of['recall']:.2f} of {of['support']}")
    if weak:
        yield finding(
            "weak_classes",
            "warning",
            f"recall far below the accuracy of {numbers['accuracy']:.2f}: {', '.join(weak[:5])}",
            "Add images of these classes, look for wrong labels among them, or try --class_weights balanced.",
        )


def throughput_findings(waiting_s: float, working_s: float, left_s: float, workers: int) -> Iterator[dict]:
    """Findings from where the time goes. left_s: expected until the end."""
    share = waiting_s / max(waiting_s + working_s, 1e-9)
    if share > DATA_BOUND and waiting_s > 5:
        yield finding(
            "data_bound",
            "warning",
            f"{share:.0%} of the time is spent waiting for images",
            f"Raise --dataloader_num_workers (now {workers}), put the images on a faster disk, or store them smaller.",
        )
    elif left_s > LONG_S and share < 0.2:
        yield finding(
            "compute_bound",
            "info",
            f"about {left_s / 3600:.1f} h to go, and {1 - share:.0%} of the time is the network's own",
            "Take a smaller --model or --image_px, --tune head, a bigger --batch_size, or a GPU.",
        )


def bottleneck(waiting: float) -> str:
    """What bounds a training's speed, in words. waiting: share of the steps' time that goes by waiting for images."""
    what = "images" if waiting > 0.5 else "computing"
    return f"{what}: a step waits for its images {waiting:.0%} of its time and computes {1 - waiting:.0%}"


def out_of_memory(batch: int, accumulation: int) -> dict:
    """The finding of a run whose batch had to be halved."""
    return finding(
        "out_of_memory",
        "warning",
        f"memory was short: the batch became {batch} x {accumulation} accumulated (the same effective batch)",
        "Give this --batch_size from the start, or take a smaller --model or --image_px.",
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
