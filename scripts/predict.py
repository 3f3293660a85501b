"""A run folder and images -> the class of each image, how sure that is, and which ones a person should look at."""

from __future__ import annotations

import functools
import sys
from collections import Counter

from imgcls.config import parser
from imgcls.config.inference_options import PredictOptions

EXAMPLES = """\
examples:
  python scripts/predict.py --run runs/photos-resnet-50 photo.jpg
  python scripts/predict.py --run runs/photos-resnet-50 new_photos --out new.csv --top_k 3
  find . -name '*.jpg' | python scripts/predict.py --run runs/photos-resnet-50 - --out all.jsonl
  python scripts/predict.py --run runs/photos-resnet-50 new_photos --sort_into sorted

A stopped command goes on where it was when it is given again (with --out).
exit codes: 0 done (images that cannot be read are in the output), 1 an error that you can mend, 2 wrong usage"""


def main() -> int:
    given = parser.parse(
        (PredictOptions,), description=__doc__, examples=EXAMPLES,
        positional=("input", "images, folders, patterns like 'photos/*.jpg', URLs, or - for a list of files on stdin"),
    )  # fmt: skip
    parser.configure_logging()
    asked = given.make(PredictOptions)
    inputs = given.values.get("input", [])

    from imgcls.deploy import input_files, sort_images
    from imgcls.errors import FolderError, shorten

    input_files.check_inputs(inputs, asked.allow_urls)
    if asked.sort_into:
        sort_images.check_sort_target(asked.sort_into, inputs)

    import torch
    from tqdm import tqdm

    from imgcls.dataloading import preprocessing
    from imgcls.deploy import predictions
    from imgcls.evaluation import calibration
    from imgcls.models import inference, source
    from imgcls.storage import array_cache, resumable_table, run_folder
    from imgcls.system import hardware

    hardware.configure_process()
    device = torch.device(hardware.accelerator() or "cpu")
    folder = source.fetch_trained_model(asked.run)
    network, processor = inference.load_model(folder, device)
    classes = [network.config.id2label[i] for i in range(network.config.num_labels)]
    trust = calibration.load_calibration(run_folder.RunFolder(folder), asked.min_precision)
    said = predictions.PredictionFormatter(
        classes, *calibration.temperature_and_threshold(trust, asked.min_confidence), min(asked.top_k, len(classes))
    )

    listed = input_files.read_stdin() if input_files.LIST in inputs else ()
    total = None if listed else sum(1 for _ in input_files.expand_inputs(inputs))
    if total == 0:
        raise FolderError(f"Expected images in {shorten(inputs)}, got none.")
    settings = (said, inputs, asked.sort_into, asked.fast, array_cache.file_state(folder / run_folder.WEIGHTS))
    pixels = functools.partial(preprocessing.evaluation_pixels, processor=processor)
    if asked.fast:
        parser.log.info("--fast: large JPEGs are decoded at a smaller scale, so answers may differ from the exact ones")
        pixels = preprocessing.fast_pixels(processor)
    counts = Counter()
    with resumable_table.open_table(asked.out, asked.format, said.columns, settings, said.line) as out:
        known = out.count()
        bar = tqdm(total=total, initial=known, unit="img", leave=False, disable=None if asked.out else True)
        stream = inference.stream_outputs(
            inference.logits_function(network),
            out.rest(input_files.expand_inputs(inputs, listed)),
            lambda name: pixels(input_files.read_input(name, asked.allow_urls)),
            batch=asked.batch_size,
            device=device,
        )
        for names, logits, broken in stream:
            rows = said.rows(names, logits, broken)
            if asked.sort_into:
                sort_images.copy_into_class_folders(asked.sort_into, rows)
            out.write(rows)
            bar.update(len(rows))
            counts.update("broken" if row["error"] else "unsure" if row["unsure"] else "sure" for row in rows)
        bar.close()
        out.finish()
    parser.log.info(predictions.prediction_summary(counts, known, asked.out))
    return parser.EXIT_OK


if __name__ == "__main__":
    sys.exit(parser.run_main(main))
