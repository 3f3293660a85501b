"""A finished training or evaluation folder -> its report. Only pixels and the network come from elsewhere."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

from transformers import BaseImageProcessor, PreTrainedModel

from imgcls.evaluation import diagnosis, held_out
from imgcls.evaluation.held_out import HeldOutPredictions
from imgcls.report import heatmaps, report_page
from imgcls.report.html_page import Cell
from imgcls.report.report_page import ReportContent, ReportedEvaluation, ReportImages, TrainingRecord
from imgcls.storage import run_folder
from imgcls.storage.run_folder import RunFolder

Opener = Callable[[str], str | bytes]  # path in the data folder -> path of the file or its encoded bytes


def write_training_report(
    run: RunFolder, open_source: Opener, network: PreTrainedModel, processor: BaseImageProcessor
) -> None:
    """Write report.html and figures/ of a finished training.

    The page evaluates by the folds if there are any, else by the test split, else by the validation split.
    """
    metrics, options = run.read_json(run_folder.METRICS), run.read_options() or {}
    folded = held_out.read_out_of_fold(run, metrics["classes"])
    predictions = folded or held_out.read_predictions(run, metrics["classes"])[-1]
    evaluation = ReportedEvaluation(
        predictions,
        metrics["cross_validation"] if folded else metrics[predictions.name],
        run.read_json(run_folder.CALIBRATION)["temperature"],
        calibrated_on=predictions.name == "validation",
        suspects=run.read_csv(run_folder.SUSPECTS),
        tables=_selection(metrics.get("selection")),
    )
    training = TrainingRecord(
        run.read_lines(run_folder.HISTORY),
        options.get("metric_for_best_model") or "accuracy",
        run.read_json(run_folder.CHECK) or [],
        _splits(run),
        options,
    )
    # the predictions of folds come from other networks than this one
    images = ReportImages(open_source) if folded else _images(open_source, network, processor)
    content = ReportContent(
        run.path,
        _training_subtitle(metrics),
        evaluation,
        images,
        run.read_json(run_folder.DIAGNOSIS) or [],
        report_facts(metrics),
        training,
    )
    report_page.write_report(run, content)


def write_evaluation_report(
    folder: RunFolder,
    open_source: Opener,
    network: PreTrainedModel,
    processor: BaseImageProcessor,
    *,
    data: str,
    calibrated_on: bool,
) -> None:
    """Write report.html and figures/ of an evaluation in RUN/validation/NAME.

    data: name of the images. calibrated_on: whether the run's temperature was fitted on them.
    """
    metrics = folder.read_json(run_folder.METRICS)
    (predictions,) = held_out.read_predictions(folder, metrics["classes"])
    evaluation = ReportedEvaluation(
        predictions,
        metrics["test"],
        metrics["calibration"]["temperature"],
        calibrated_on=calibrated_on,
        suspects=folder.read_csv(run_folder.SUSPECTS),
        tables=_robustness(metrics) | _comparisons(metrics),
    )
    made = metrics["made"]
    content = ReportContent(
        folder.path.parents[1],
        f"{metrics['model']}, evaluated on {len(predictions.paths):,} images of {data}",
        evaluation,
        _images(open_source, network, processor),
        _findings(predictions, metrics["test"]),
        {"machine": made["machine"], "date": made["date"], "versions": _versions(made)},
    )
    report_page.write_report(folder, content)


def _images(open_source: Opener, network: PreTrainedModel, processor: BaseImageProcessor) -> ReportImages:
    def heat_maps(paths: Sequence[str], targets: Sequence[int]) -> list[str] | None:
        return heatmaps.heatmap_pictures(network, processor, [open_source(path) for path in paths], targets)

    return ReportImages(open_source, heat_maps)


def _training_subtitle(metrics: Mapping) -> str:
    train = metrics["train"]
    return (
        f"{metrics['model']}, from {metrics['initialised']} weights, {len(metrics['classes'])} classes; "
        f"{train['images']:,} images x {train['epochs']:g} epochs in {train['seconds']:.0f} s"
    )


def _findings(predictions: HeldOutPredictions, numbers: dict) -> list[dict]:
    """The findings that a training's rules derive from the numbers of an evaluation alone."""
    task = diagnosis.TrainingTask(predictions.classes, [1] * len(predictions.classes), numbers["images"])
    return [*diagnosis.prediction_findings(task, numbers), *diagnosis.final_findings(task, [], numbers)]


def _splits(run: RunFolder) -> dict[str, dict[str, int]]:
    counts: defaultdict[str, Counter] = defaultdict(Counter)
    for row in run.read_csv(run_folder.SPLIT):
        counts[row["label"]][row["split"]] += 1
    return {label: dict(by_split) for label, by_split in sorted(counts.items())}


def _selection(selection: Mapping | None) -> dict[str, list[list]]:
    if not selection:
        return {}
    rows = [["weights", "validation accuracy", ""]]
    for name, accuracy in selection["accuracy"].items():
        rows.append([name, accuracy, "saved" if name == selection["kept"] else ""])
    return {"Choice of weights": rows}


def _robustness(metrics: Mapping) -> dict[str, list[list]]:
    if "corruptions" not in metrics:
        return {}
    rows = [["corruption", "strength", "accuracy", "drop in accuracy"]]
    for row in metrics["corruptions"]:
        strength = f"{row['value']:g} {row['unit']}"
        rows.append([row["kind"], strength, row["accuracy"], row["clean"] - row["accuracy"]])
    return {"Robustness": rows}


def _comparisons(metrics: Mapping) -> dict[str, list[list]]:
    rows = [["", "difference in accuracy", "95 % interval", "only the first correct", "only the second correct", "p"]]
    if "tta" in metrics:
        rows.append(_comparison("with test-time augmentation, minus without", metrics["tta"]["against"]))
    if "comparison" in metrics:
        rows.append(_comparison("this run, minus the other", metrics["comparison"]))
    return {"Comparison": rows} if len(rows) > 1 else {}


def _comparison(name: str, test: Mapping) -> list:
    """A row for McNemar's test of two predictions for the same images."""
    low, high = test["ci95"]
    difference = Cell(f"{test['difference']:+.3f}", test["difference"])
    ends = Cell(f"{low:+.3f} to {high:+.3f}", low)
    return [name, difference, ends, test["only_first"], test["only_second"], test["p_value"]]


def report_facts(metrics: Mapping) -> dict[str, str]:
    """How a training was run: name -> text. Runs of older versions lack some of it."""
    made, train = metrics.get("made", {}), metrics["train"]
    speed = f"{train['seconds']:.0f} s, {train['images_per_second']:.0f} images/s"
    stopped = ", stopped early" if train["stopped_early"] else ""
    return {
        **{name: made[name] for name in ("command", "machine", "date") if name in made},
        "training": f"{speed}, best epoch {train['best_epoch']:g}{stopped}",
        **({"bottleneck": diagnosis.bottleneck(train["waiting"])} if "waiting" in train else {}),
        **({"versions": _versions(made)} if "versions" in made else {}),
    }


def _versions(made: Mapping) -> str:
    return ", ".join(f"{name} {version}" for name, version in made["versions"].items())
