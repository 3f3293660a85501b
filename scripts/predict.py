"""Predict the class of images with a trained model, with confidence and a mark on predictions to check by hand."""

from __future__ import annotations

import sys

from imgcls.config import parser
from imgcls.config.inference_options import PredictOptions

EXAMPLES = """\
examples:
  python scripts/predict.py --run runs/photos-resnet-50 photo.jpg
  python scripts/predict.py --run runs/photos-resnet-50 new_photos --out new.csv --top_k 3
  find . -name '*.jpg' | python scripts/predict.py --run runs/photos-resnet-50 - --out all.jsonl
  python scripts/predict.py --run runs/photos-resnet-50 new_photos --sort_into sorted

With --out, a stopped command resumes when it is run again.
exit codes: 0 done (unreadable images are listed in the output), 1 an error you can fix, 2 wrong usage"""
INPUT = "images, folders, patterns like 'photos/*.jpg', URLs, or - for a list of files on stdin"


def main() -> int:
    """Parse the options, predict."""
    parsed = parser.parse((PredictOptions,), description=__doc__, examples=EXAMPLES, positional=("input", INPUT))
    parser.configure_logging()
    options, inputs = parsed.make(PredictOptions), parsed.values.get("input", [])

    from imgcls.deploy import input_files

    input_files.check_inputs(inputs, allow_urls=options.allow_urls, sort_into=options.sort_into)
    from imgcls.deploy import batch_prediction  # which imports torch, and so takes seconds

    batch_prediction.predict_files(options, inputs)
    return parser.EXIT_OK


if __name__ == "__main__":
    sys.exit(parser.run_main(main))
