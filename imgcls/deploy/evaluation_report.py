"""The report of an evaluation, next to its other files."""

from __future__ import annotations

from imgcls.evaluation.evaluate import Evaluation
from imgcls.report import report_data


def write_evaluation_report(evaluation: Evaluation) -> None:
    """Write report.html and figures/ of an evaluation."""
    images, model = evaluation.images, evaluation.model
    position = {path: i for i, path in enumerate(images.paths)}
    report_data.write_evaluation_report(
        evaluation.folder,
        lambda path: images.source(position[path]),
        model.network,
        model.processor,
        data=images.collection.location.name,
        calibrated_on=images.calibrated_on,
    )
