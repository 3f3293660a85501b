"""Recommend a model for folders of photos and a priority, and how to train it; by rules, or measured on the photos."""

from __future__ import annotations

import json
import sys

from imgcls.config import parser
from imgcls.config.data_options import DataOptions
from imgcls.config.inference_options import RecommendOptions

EXAMPLES = """\
examples:
  python scripts/recommend.py --data photos
  python scripts/recommend.py --data photos --priority edge
  python scripts/recommend.py --data photos --measure resnet-18 mobilenetv3-small

exit codes: 0 done, 1 an error that you can fix, 2 wrong usage"""


def main() -> int:
    """Parse the command line, recommend, print a table or JSON; returns the exit code."""
    given = parser.parse((DataOptions, RecommendOptions), description=__doc__, examples=EXAMPLES)
    parser.configure_logging()

    from imgcls.probing import model_choice
    from imgcls.system import hardware

    hardware.configure_process()
    options = given.make(RecommendOptions)
    results = model_choice.recommend(given.make(DataOptions), options)
    print(json.dumps(results, indent=2) if options.json else model_choice.format_table(results))
    return parser.EXIT_OK


if __name__ == "__main__":
    sys.exit(parser.run_main(main))
