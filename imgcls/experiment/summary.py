"""What is printed at the end of a training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from imgcls.evaluation import diagnosis
from imgcls.evaluation.scores import most_confused, weakest
from imgcls.hub import publish
from imgcls.storage import run_folder
from imgcls.storage.run_folder import RunFolder


def summary_text(run: RunFolder) -> str:
    """Return the metrics of each split, weakest classes, most confused pairs, findings, and what to do next.

    run: the folder of a finished run.
    """
    metrics = run.read_json(run_folder.METRICS)
    folds = metrics.get("cross_validation")
    lines = [
        *_training_lines(metrics),
        "",
        f"{'':12}{'images':>8}{'accuracy':>10}  {'95 % interval':15}{'macro F1':>9}{'loss':>8}",
        *(_split_line(split, metrics[split]) for split in ("validation", "test") if metrics[split]),
        *([_split_line(f"{folds['folds']} folds", folds)] if folds else []),
        *_class_lines(folds or metrics["test"] or metrics["validation"], metrics["classes"]),
        *(diagnosis.finding_text(finding) for finding in run.read_json(run_folder.DIAGNOSIS) or []),
        "",
        *_next_steps(run),
    ]
    return "\n".join(lines)


def _training_lines(metrics: Mapping[str, Any]) -> list[str]:
    train, selection = metrics["train"], metrics.get("selection")
    stopped = ", stopped early" if train["stopped_early"] else ""
    lines = [
        f"{metrics['model']}, from {metrics['initialised']} weights, {len(metrics['classes'])} classes",
        f"{train['images']} images x {train['epochs']:g} epochs in {_duration(train['seconds'])}"
        f" ({train['images_per_second']:.0f} img/s), best epoch {train['best_epoch']:g}{stopped}",
    ]
    if "waiting" in train:
        lines.append(f"bottleneck: {diagnosis.bottleneck(train['waiting'])}")
    if selection:
        accuracy, selected = selection["accuracy"], selection["kept"]
        listed = ", ".join(f"{name} {value:.3f}" for name, value in accuracy.items())
        below = ", within chance of the probe" if accuracy[selected] < accuracy["probe"] else ""
        lines.append(f"weights: {selected} (validation accuracy: {listed}){below}")
    return lines


def _split_line(name: str, metrics: Mapping[str, Any]) -> str:
    low, high = metrics["accuracy_ci95"]
    loss = float("inf") if metrics["loss"] is None else metrics["loss"]
    return (
        f"{name:12}{metrics['images']:>8}{metrics['accuracy']:>10.3f}  {f'{low:.3f} to {high:.3f}':15}"
        f"{metrics['macro_f1']:>9.3f}{loss:>8.3f}"
    )


def _class_lines(metrics: Mapping[str, Any], classes: list[str]) -> list[str]:
    """The weakest classes and the most confused pairs."""
    per_class, lines = metrics["per_class"], [""]
    weak = weakest(per_class)
    if weak:
        lines.append("weakest classes")
    for name in weak:
        row = per_class[name]
        lines.append(
            f"  {name}: F1 {row['f1']:.2f}, precision {row['precision'] or 0:.2f}, recall {row['recall']:.2f}, "
            f"support {row['support']}"
        )
    confused = most_confused(metrics["confusion_matrix"], classes)
    if confused:
        lines.append("most confused")
    for true, predicted, count in confused:
        lines.append(f"  {true} predicted as {predicted}: {count} of {per_class[true]['support']}")
    return lines if weak or confused else []


def _next_steps(run: RunFolder) -> list[str]:
    files = (
        run_folder.WEIGHTS,
        run_folder.METRICS,
        run_folder.PREDICTIONS,
        run_folder.HISTORY,
        run_folder.OPTIONS,
    )
    report = run / run_folder.REPORT
    return [
        f"written to {run.path}: {', '.join(name for name in files if (run / name).exists())}",
        *([f"report:  {report}"] if report.exists() else []),
        f"predict:  python scripts/predict.py --run {run.path} FOLDER",
        'or:  python -c "from transformers import pipeline; '
        f"print(pipeline('image-classification', model='{run.path}')('photo.jpg'))\"",
        f"share:  {publish.push_command(run, private=publish.is_private(run))}",
        f"train on more images:  python scripts/train.py --model {run.path} --data FOLDER --output_dir NEW",
    ]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s" if rest else "less than a second"
