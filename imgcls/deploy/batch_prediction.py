"""Predictions for many image files, into a table that a stopped command resumes."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

from tqdm import tqdm

from imgcls.config.inference_options import PredictOptions
from imgcls.dataloading import preprocessing
from imgcls.deploy import input_files
from imgcls.deploy.predictions import PredictionFormatter, copy_into_class_folders, prediction_summary
from imgcls.errors import FolderError, shorten
from imgcls.evaluation.loaded_model import LoadedModel
from imgcls.evaluation.run_calibration import threshold_text
from imgcls.storage import array_cache, resumable_table, run_folder

log = logging.getLogger(__name__)


def predict_files(options: PredictOptions, inputs: Sequence[str]) -> Counter[str]:
    """Predict all images of the inputs and write them to `--out` or print them.

    inputs: as checked by `input_files.check_inputs`. Returns the numbers of "sure", "unsure" and "broken" images,
    without those that an earlier, stopped command had predicted. Raises FolderError when the inputs hold no images.
    """
    model = LoadedModel.load(options.run, batch_size=options.batch_size, min_precision=options.min_precision)
    formatter = make_formatter(model, options.top_k, options.min_confidence)
    lines = input_files.read_stdin() if input_files.LIST in inputs else ()
    total = None if lines else sum(1 for _ in input_files.expand_inputs(inputs))
    if total == 0:
        raise FolderError(f"Expected images in {shorten(inputs)}, got none.")
    weights = array_cache.file_state(str(model.folder / run_folder.WEIGHTS))
    settings = (formatter, inputs, options.sort_into, options.fast, weights)
    pixels = model.pixels
    if options.fast:
        log.info("--fast: large JPEGs are decoded at a smaller scale, so predictions may differ from the exact ones")
        pixels = preprocessing.fast_pixels(model.processor)
    counts: Counter[str] = Counter()
    columns = formatter.columns
    with resumable_table.open_table(options.out, options.format, columns, settings, formatter.line) as table:
        resumed = table.count()
        paths = table.rest(input_files.expand_inputs(inputs, lines))
        stream = model.stream_logits(paths, lambda path: pixels(input_files.read_input(path, options.allow_urls)))
        hidden = None if options.out else True  # tqdm: None shows the bar on a terminal only
        with tqdm(total=total, initial=resumed, unit="img", leave=False, disable=hidden) as bar:
            for batch, logits, errors in stream:
                rows = formatter.rows(batch, logits, errors)
                if options.sort_into:
                    copy_into_class_folders(options.sort_into, rows)
                table.write(rows)
                bar.update(len(rows))
                counts.update("broken" if row["error"] else "unsure" if row["unsure"] else "sure" for row in rows)
        table.finish()
    log.info(prediction_summary(counts, resumed, options.out))
    return counts


def make_formatter(model: LoadedModel, top_k: int, min_confidence: float | None = None) -> PredictionFormatter:
    """The formatter of a model's predictions; logs what its threshold means.

    min_confidence: threshold to use in place of the model's own.
    """
    threshold = model.threshold if min_confidence is None else min_confidence
    if min_confidence is None:
        is_usable = model.calibration is not None and model.calibration["threshold"]["confidence"] is not None
        log.log(logging.INFO if is_usable else logging.WARNING, threshold_text(model.calibration))
    return PredictionFormatter(model.classes, model.temperature, threshold, min(top_k, len(model.classes)))
