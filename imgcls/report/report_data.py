"""A finished training, or a validation of it -> what its report tells: which images, which numbers, which words."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import nn

from imgcls.data.dataset import image_source
from imgcls.data.splits import DatasetSplits
from imgcls.evaluation import diagnosis, label_errors
from imgcls.evaluation.calibration import probabilities
from imgcls.evaluation.evaluate import EvaluatedModel
from imgcls.evaluation.evaluation_set import EvaluationSet
from imgcls.report import heatmaps, report_page
from imgcls.report.report_page import EvaluatedSplit, ReportContent
from imgcls.storage import run_folder


def write_training_report(
    run: run_folder.RunFolder,
    metrics: Mapping,
    splits: DatasetSplits,
    logits: Mapping[str, np.ndarray],
    network: nn.Module,
    processor,
) -> None:
    """Write suspects.csv, report.html and figures/ of a run whose other files are there.

    metrics: as metrics.json will say. logits: split -> (N, K) of what was evaluated. The page judges by the folds when
    there are some, else by the test split, else by validation.
    """
    trust = run.read_json(run_folder.CALIBRATION)
    place = {path: (split, i) for _, split in splits.items() for i, path in enumerate(split.paths)}

    def source(path: str) -> str | bytes:
        split, i = place[path]
        return image_source(split.rows[i])

    folded = _folded(run, splits)
    parts = {s: (splits[s].paths, np.asarray(splits[s].labels), of) for s, of in logits.items()}
    name, part = ("cross-validated", folded) if folded else list(parts.items())[-1]
    seen = folded or tuple(map(_joined, zip(*parts.values(), strict=True)))
    rows = find_suspects(
        *seen, splits.classes, trust["temperature"], run.read_logits(run_folder.OUT_OF_FOLD_LOGITS).get("probes")
    )
    write_suspects(run, rows)
    options = run.read_options() or {}
    train = metrics["train"]
    judged = _judged(name, splits.classes, *part, source, network, processor)
    if folded:  # other networks said it
        judged.explain = lambda at: None
    report_page.write_report(run, ReportContent(
        title=run.path.name,
        subtitle=f"{metrics['model']}, from {metrics['initialised']} weights, {len(splits.classes)} classes; "
        f"{train['images']:,} images x {train['epochs']:g} epochs in {train['seconds']:.0f} s",
        numbers=metrics["cross_validation"] if folded else metrics[name],
        judged=judged,
        trust=trust,
        fitted_on_these=name == "validation",
        findings=run.read_json(run_folder.DIAGNOSIS),
        problems=run.read_json(run_folder.CHECK) or [],
        next_steps=report_page.next_steps(run),
        history=run.read_lines(run_folder.HISTORY),
        metric=options.get("metric_for_best_model") or "accuracy",
        suspects=rows,
        source=source,
        splits=_splits(run),
        tables=_selection(metrics),
        options=options,
        facts=report_facts(metrics),
    ))  # fmt: skip


def write_evaluation_report(
    folder: run_folder.RunFolder,
    run: run_folder.RunFolder,
    metrics: Mapping,
    of: EvaluationSet,
    logits: np.ndarray,
    model: EvaluatedModel,
) -> None:
    """Write suspects.csv, report.html and figures/ of a validation. metrics: as its metrics.json says."""
    classes, temperature = model.classes, metrics["calibration"]["temperature"]
    paths = of.paths
    place = {path: i for i, path in enumerate(paths)}
    rows = find_suspects(paths, of.labels, logits, classes, temperature)
    write_suspects(folder, rows)

    def source(path: str) -> str | bytes:
        return of.source(place[path])

    report_page.write_report(folder, ReportContent(
        title=f"{run.path.name} on {of.name}",
        subtitle=f"{metrics['model']}, judged on {len(paths):,} images of {of.images.location.name}",
        numbers=metrics["test"],
        judged=_judged(of.name, classes, paths, of.labels, logits, source, model.network, model.processor),
        trust={"temperature": temperature, "threshold": metrics["threshold"]},
        fitted_on_these=of.calibrated_on,
        findings=_findings(classes, metrics["test"]),
        next_steps=report_page.next_steps(run)[:1],
        suspects=rows,
        source=source,
        tables=_more(metrics),
        facts={"machine": metrics["made"]["machine"], "day": metrics["made"]["date"],
               "versions": _versions(metrics["made"])},
    ))  # fmt: skip


def _findings(classes: Sequence[str], numbers: Mapping) -> list[dict]:
    """What the rules of a training say of these numbers alone."""
    task = diagnosis.TrainingTask(classes, [1] * len(classes), numbers["images"])
    return [*diagnosis.prediction_findings(task, numbers), *diagnosis.final_findings(task, [], numbers)]


def _more(metrics: Mapping) -> dict[str, list[list]]:
    """Tables of what was asked for beyond the numbers."""
    found = {}
    if "corruptions" in metrics:
        rows = [["images made worse", "", "accuracy", "lost"]]
        for row in metrics["corruptions"]:
            how = f"{row['value']:g} {row['unit']}"
            rows.append([row["kind"], how, row["accuracy"], row["clean"] - row["accuracy"]])
        found["Robustness"] = rows
    several = []
    for name, key in (
        ("with test-time augmentation, minus without", "tta"),
        ("this run, minus the other", "comparison"),
    ):
        if key in metrics:
            of = metrics[key].get("against", metrics[key])
            several.append([name, of["difference"], "{:+.3f} to {:+.3f}".format(*of["ci95"]), of["only_first"],
                            of["only_second"], of["p_value"]])  # fmt: skip
    if several:
        heads = ["", "accuracy by", "95 % interval", "only the first right", "only the second", "p"]
        found["Compared"] = [heads, *several]
    return found


def _joined(values: Sequence):
    return [v for part in values for v in part] if isinstance(values[0], list) else np.concatenate(values)


def _folded(run: run_folder.RunFolder, splits: DatasetSplits) -> tuple | None:
    """Paths, labels and logits of all images by folds that did not see them; None without --folds."""
    rows = run.read_csv(run_folder.OUT_OF_FOLD)
    if not rows:
        return None
    labels = np.array([splits.classes.index(row["label"]) for row in rows])
    return [row["path"] for row in rows], labels, run.read_logits(run_folder.OUT_OF_FOLD_LOGITS)["out_of_fold"]


def find_suspects(
    paths: Sequence[str],
    labels: np.ndarray,
    logits: np.ndarray,
    classes: Sequence[str],
    temperature: float,
    probes: np.ndarray | None = None,
) -> list[dict]:
    """Rows of suspects.csv. probes: logits (N, M, K) of M other models that did not see the images."""
    opinions = [probabilities(logits, temperature)]
    if probes is not None:
        opinions += [probabilities(probes[:, m]) for m in range(probes.shape[1])]
    return [
        {"path": paths[i], "label": classes[labels[i]], "suggested": classes[other], "score": f"{score:.6f}"}
        for i, other, score in label_errors.find_label_errors(labels, opinions)
    ]


def write_suspects(run: run_folder.RunFolder, rows: Sequence[Mapping]) -> None:
    """suspects.csv."""
    run.write_csv(run_folder.SUSPECTS, run_folder.SUSPECT_COLUMNS, (tuple(row.values()) for row in rows))


def _judged(
    name: str,
    classes: Sequence[str],
    paths: Sequence[str],
    labels: np.ndarray,
    logits: np.ndarray,
    source: Callable[[str], str | bytes],
    network: nn.Module,
    processor,
) -> EvaluatedSplit:
    def explain(at: Sequence[int]) -> Sequence[str] | None:
        return heatmaps.heatmap_pictures(network, processor, [source(paths[i]) for i in at], logits[list(at)].argmax(1))

    return EvaluatedSplit(name, classes, paths, labels, logits, lambda i: source(paths[i]), explain)


def _splits(run: run_folder.RunFolder) -> dict[str, dict[str, int]]:
    counts: defaultdict[str, Counter] = defaultdict(Counter)
    for row in run.read_csv(run_folder.SPLIT):
        counts[row["label"]][row["split"]] += 1
    return {name: dict(of) for name, of in sorted(counts.items())}


def _selection(metrics: Mapping) -> dict[str, list[list]]:
    found = metrics.get("selection")
    if not found:
        return {}
    rows = [["candidate", "validation accuracy", ""]]
    rows += [[name, share, "kept" if name == found["kept"] else ""] for name, share in found["accuracy"].items()]
    return {"Probe or fine-tuned": rows}


def report_facts(metrics: Mapping) -> dict[str, str]:
    """What the page says of the making."""
    made, train = metrics["made"], metrics["train"]
    return {
        **({"command": made["command"]} if "command" in made else {}),
        "machine": made["machine"],
        "day": made["date"],
        "training": f"{train['seconds']:.0f} s, {train['images_per_second']:.0f} images a second, best epoch "
        f"{train['best_epoch']:g}{', stopped early' if train['stopped_early'] else ''}",
        **({"limit": diagnosis.bottleneck(train["waiting"])} if "waiting" in train else {}),
        "versions": _versions(made),
    }


def _versions(made: Mapping) -> str:
    return ", ".join(f"{name} {version}" for name, version in made["versions"].items())
