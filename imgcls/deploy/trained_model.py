"""The Python API for a trained model: predict, evaluate, export."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path

from imgcls.config.data_options import SourceOptions
from imgcls.config.inference_options import ValidateOptions
from imgcls.config.parser import ParsedOptions
from imgcls.deploy import input_files, onnx_export, onnx_model
from imgcls.deploy.evaluation_report import write_evaluation_report
from imgcls.deploy.predictions import Prediction, PredictionFormatter
from imgcls.errors import OptionError, nearest
from imgcls.evaluation import evaluate
from imgcls.evaluation.loaded_model import Images, LoadedModel, is_one_image, list_images


class TrainedModel(LoadedModel):
    """A trained classifier from a run folder, a model folder or the Hub.

    model = TrainedModel.load("runs/photos-resnet-50")
    model.predict("photo.jpg").label
    """

    def predict(self, images: Images, top_k: int = 1) -> Prediction | list[Prediction]:
        """Predict classes with calibrated confidence, as scripts/predict.py does.

        images: the path of a file, a PIL image or a uint8 array (height, width, 3) in RGB, for one prediction; a folder
        or several images for a list. top_k: number of classes in `Prediction.top`. An image that cannot be read has a
        prediction with an `error`. Raises OptionError for arrays of another type or shape.
        """
        if isinstance(images, (str, Path)) and os.path.isdir(images):
            return self._predictions(list(input_files.expand_inputs([str(images)])), top_k)
        predictions = self._predictions(images, top_k)
        return predictions[0] if is_one_image(images) else predictions

    def _predictions(self, images: Images, top_k: int) -> list[Prediction]:
        if top_k < 1:
            raise OptionError(f"Expected top_k of 1 or more, got {top_k}.")
        formatter = PredictionFormatter(self.classes, self.temperature, self.threshold, min(top_k, len(self.classes)))
        predictions = []
        for batch, logits, errors in self.stream_logits(list_images(images), self.pixels):
            paths = [str(image) if isinstance(image, (str, Path)) else None for image in batch]
            predictions += formatter.predictions(paths, logits, errors)
        return predictions

    def evaluate(self, data: str | Path | None = None, **options: object) -> dict:
        """Evaluate on labelled images; returns the content of metrics.json.

        data: class folders, a CSV or a Hub dataset id; None takes the images held out in training. options: those of
        scripts/validate.py, such as split="test", tta=True or name="new". The results and a report are written to
        RUN/validation/NAME/. Raises OptionError for an unknown option.
        """
        own = {
            "run": self.name,
            "batch_size": self.batch_size,
            "min_precision": self.min_precision,
            "data": None if data is None else str(data),
        }
        names = {field.name for kind in (SourceOptions, ValidateOptions) for field in fields(kind)} - own.keys()
        for name in options.keys() - names:
            close = ", ".join(nearest(name, names))
            raise OptionError(f"Expected an option of scripts/validate.py, got {name}. Nearest: {close}.")
        values = ParsedOptions(own | options)
        evaluation = evaluate.evaluate_model(self, values.make(ValidateOptions), values.make(SourceOptions))
        write_evaluation_report(evaluation)
        return evaluation.metrics

    def export(self, folder: str | Path | None = None) -> dict:
        """Export to ONNX, verified against torch; returns the content of export.json.

        folder: where model.onnx and export.json go; None is RUN/export. Raises LaunchError when onnx, onnxscript or
        onnxruntime is missing, and what `onnx_export.export_model` raises.
        """
        onnx_model.check_packages()
        return onnx_export.export_model(self, folder)
