"""Evaluate a trained model on labelled images: metrics with confidence intervals, mistakes, and a report."""

from __future__ import annotations

import sys

from imgcls.config import parser
from imgcls.config.data_options import SourceOptions
from imgcls.config.inference_options import ValidateOptions

EXAMPLES = """\
examples:
  python scripts/validate.py --run runs/photos-resnet-50                    the images held out in training
  python scripts/validate.py --run runs/photos-resnet-50 --data new_photos  class folders, named as in training
  python scripts/validate.py --run runs/photos-resnet-50 --data new_photos --compare runs/photos-vit-base --corruptions

exit codes: 0 done, 1 an error you can fix, 2 wrong usage"""
DATA = "labelled images: class folders, a CSV or a Hub dataset id, as for train.py (default: the run's held-out images)"


def main() -> int:
    """Parse the options, evaluate, write the report, print the metrics."""
    parsed = parser.parse(
        (SourceOptions, ValidateOptions), description=__doc__, examples=EXAMPLES, short_help={"data": DATA}
    )
    parser.configure_logging()
    data, options = parsed.make(SourceOptions), parsed.make(ValidateOptions)

    from imgcls.deploy import evaluation_report
    from imgcls.evaluation import evaluate, evaluation_text

    result = evaluate.evaluate_run(options, data)
    evaluation_report.write_evaluation_report(result)
    print(evaluation_text.evaluation_text(result, options.compare))
    print(f"see {result.folder / 'report.html'}")
    return parser.EXIT_OK


if __name__ == "__main__":
    sys.exit(parser.run_main(main))
