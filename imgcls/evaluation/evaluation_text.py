"""The numbers of an evaluation as text for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from imgcls.evaluation.evaluate import Evaluation

METRICS = {"accuracy": "accuracy", "macro F1": "macro_f1", "balanced accuracy": "balanced_accuracy"}


def evaluation_text(evaluation: Evaluation, other: str | None) -> str:
    """All numbers of an evaluation, one a line. other: name of the model that it was compared with."""
    metrics, images = evaluation.metrics, evaluation.images
    results = metrics["test"]
    lines = [f"{results['images']:,} images of {images.name} in {len(set(images.labels.tolist()))} classes"]
    for name, key in METRICS.items():
        lines.append(f"{name:<18} {_with_interval(results[key], results[f'{key}_ci95'])}")
    lines += _calibration_lines(metrics["calibration"], metrics["threshold"])
    if "tta" in metrics:
        tta = metrics["tta"]
        gain = _with_interval(tta["against"]["difference"], tta["against"]["ci95"], "+")
        lines.append(f"{'with --tta':<18} {tta['accuracy']:.3f}, by {gain}")
    if "comparison" in metrics:
        test = metrics["comparison"]
        lines.append(
            f"compared with {other}: {_with_interval(test['difference'], test['ci95'], '+')}; only this one correct "
            f"{test['only_first']}, only the other {test['only_second']}, p = {test['p_value']:.3g}"
        )
    lines += _corruption_lines(metrics.get("corruptions", []))
    return "\n".join(lines)


def _calibration_lines(results: Mapping, threshold: Mapping) -> Iterator[str]:
    if results["ece_before"] is not None:
        before, after = (_with_interval(results[key], results[f"{key}_ci95"]) for key in ("ece_before", "ece_after"))
        yield f"{'calibration error':<18} {before}; with temperature {results['temperature']:.2f} {after}"
    target = f"{threshold['min_precision']:.0%}"
    if threshold["confidence"] is None:
        yield f"no confidence threshold reaches a precision of {target}"
    else:
        yield (
            f"{target} precision from confidence {threshold['confidence']:.3f}: {threshold['coverage']:.1%} of the "
            f"images, correct {_with_interval(threshold['precision'], threshold['ci95'])}"
        )


def _corruption_lines(rows: Sequence[Mapping]) -> Iterator[str]:
    for kind in dict.fromkeys(row["kind"] for row in rows):
        of_kind = [row for row in rows if row["kind"] == kind]
        values = ", ".join(f"{row['value']:g}: {row['accuracy']:.3f}" for row in of_kind)
        yield f"{kind + ' (' + of_kind[0]['unit'] + ')':<34} {values}"


def _with_interval(value: float, ci95: Sequence[float], sign: str = "") -> str:
    return f"{value:{sign}.3f} ({ci95[0]:{sign}.3f} to {ci95[1]:{sign}.3f})"
