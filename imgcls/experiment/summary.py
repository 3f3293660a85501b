"""What a person reads at the end of a run."""

from __future__ import annotations

from imgcls.evaluation import diagnosis
from imgcls.evaluation.scores import most_confused, weakest
from imgcls.hub import publish
from imgcls.storage import run_folder


def summary_text(run: run_folder.RunFolder) -> str:
    """A table of the splits, the weakest classes, the most confused pairs, findings, and what to do next."""
    numbers = run.read_json(run_folder.METRICS)
    train = numbers["train"]
    stopped = ", stopped early" if train["stopped_early"] else ""
    lines = [
        f"{numbers['model']}, from {numbers['initialised']} weights, {len(numbers['classes'])} classes",
        f"{train['images']} images x {train['epochs']:g} epochs in {_duration(train['seconds'])}"
        f" ({train['images_per_second']:.0f} img/s), best epoch {train['best_epoch']:g}{stopped}",
        *([f"limit: {diagnosis.bottleneck(train['waiting'])}"] if "waiting" in train else []),
        *_kept(numbers.get("selection")),
        "",
        f"{'':12}{'images':>8}{'accuracy':>10}  {'95 % interval':15}{'macro F1':>9}{'loss':>8}",
    ]
    for split in ("validation", "test"):
        if numbers[split]:
            lines.append(_row(split, numbers[split]))
    folds = numbers.get("cross_validation")
    if folds:
        lines.append(_row(f"{folds['folds']} folds", folds))
    judged = folds or numbers["test"] or numbers["validation"]
    weak = weakest(judged["per_class"])
    lines += ["", "weakest classes"] if weak else []
    for name in weak:
        of = judged["per_class"][name]
        lines.append(
            f"  {name}: F1 {of['f1']:.2f}, precision {of['precision'] or 0:.2f}, recall {of['recall']:.2f}"
            f", support {of['support']}"
        )
    confused = most_confused(judged["confusion_matrix"], numbers["classes"])
    if confused:
        lines.append("most confused")
        for true, predicted, count in confused:
            lines.append(f"  {true} taken for {predicted}: {count} of {judged['per_class'][true]['support']}")
    for entry in run.read_json(run_folder.DIAGNOSIS) or []:
        lines.append(diagnosis.finding_text(entry))
    return "\n".join([*lines, "", *_next(run)])


def _kept(selection: dict | None) -> list[str]:
    """The line on what was chosen among probe, fine-tuned model and their average."""
    if selection is None:
        return []
    others = ", ".join(f"{name} {share:.3f}" for name, share in selection["accuracy"].items())
    kept, accuracy = selection["kept"], selection["accuracy"]
    below = ", below the probe by no more than chance explains" if accuracy[kept] < accuracy["probe"] else ""
    return [f"kept: {kept} (validation accuracy: {others}){below}"]


def _row(split: str, part: dict) -> str:
    low, high = part["accuracy_ci95"]
    interval = f"{low:.3f} to {high:.3f}"
    return (
        f"{split:12}{part['images']:>8}{part['accuracy']:>10.3f}  {interval:15}"
        f"{part['macro_f1']:>9.3f}{float('inf') if part['loss'] is None else part['loss']:>8.3f}"
    )


def _next(run: run_folder.RunFolder) -> list[str]:
    files = (
        run_folder.WEIGHTS,
        run_folder.METRICS,
        run_folder.PREDICTIONS,
        run_folder.HISTORY,
        run_folder.OPTIONS,
    )
    return [
        f"written to {run.path}: {', '.join(f for f in files if (run / f).exists())}",
        *([f"look at it:  {run / run_folder.REPORT}"] if (run / run_folder.REPORT).exists() else []),
        f"use it:  python scripts/predict.py --run {run.path} FOLDER",
        'or:  python -c "from transformers import pipeline; '
        f"print(pipeline('image-classification', model='{run.path}')('photo.jpg'))\"",
        f"share it:  {publish.push_command(run, private=publish.is_private(run))}",
        f"go on with more images:  python scripts/train.py --model {run.path} --data FOLDER --output_dir NEW",
    ]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s" if rest else "less than a second"
