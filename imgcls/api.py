"""The Python API: the functions that the scripts call, with keyword arguments instead of options."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from imgcls.config import parser
from imgcls.config.data_options import SourceOptions
from imgcls.config.inference_options import CheckOptions
from imgcls.config.training_config import OPTION_CLASSES
from imgcls.deploy.trained_model import TrainedModel
from imgcls.experiment import run
from imgcls.report.data_check import DataCheck, check_data

__all__ = ["DataCheck", "TrainedModel", "check", "train"]


def train(data: str | Path | None = None, model: str | Path = "resnet-18", **options: Any) -> TrainedModel:
    """Train a classifier, as scripts/train.py does, and return it.

    data: folder of class folders, CSV or Hub data set id; None takes ./train_images if it exists, else the demo.
    options: those of scripts/train.py by name, such as epochs=5, lr=1e-4, output_dir="runs/mine", fresh=True. A stopped
    run is resumed, a finished one is loaded. Raises ImgclsError for everything that the user can fix.
    """
    _show_messages()
    parsed = parser.parse_keywords(OPTION_CLASSES, {"data": data, "model": model, **options})
    finished = run.train(run.make_request(parsed))
    finished.leave()
    finished.push()
    return TrainedModel.load(str(finished.run.path))


def check(data: str | Path | None = None, **options: Any) -> DataCheck:
    """Check images, as scripts/check.py does; returns the issues, and the folder with the page that shows them.

    data: as for `train`. options: those of scripts/check.py by name: output_dir, image_column, label_column.
    """
    _show_messages()
    parsed = parser.parse_keywords((SourceOptions, CheckOptions), {"data": data, **options})
    return check_data(parsed.make(SourceOptions), parsed.make(CheckOptions))


def _show_messages() -> None:
    """Show what the scripts show, unless the program has set up logging itself."""
    if not (logging.getLogger().handlers or parser.log.handlers):
        parser.configure_logging()
