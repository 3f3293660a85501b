"""Check a data set for problems: prints them, and writes a page to look at and a list of images to exclude."""

from __future__ import annotations

import sys

from imgcls.config import parser
from imgcls.config.data_options import SourceOptions
from imgcls.config.inference_options import CheckOptions

EXAMPLES = """\
examples:
  python scripts/check.py --data photos
  python scripts/train.py --data photos --exclude runs/photos-check/exclude.csv

exit codes: 0 no problems found, 1 error you can fix, 2 wrong usage, 3 problems found (errors or warnings)"""


def main() -> int:
    """Parse the options, check the images, print the issues."""
    parsed = parser.parse((SourceOptions, CheckOptions), description=__doc__, examples=EXAMPLES)
    parser.configure_logging()

    from imgcls.report.data_check import check_data

    result = check_data(parsed.make(SourceOptions), parsed.make(CheckOptions))
    print(result.text)
    print(f"see {result.page}")
    return parser.EXIT_PROBLEMS if result.has_problems else parser.EXIT_OK


if __name__ == "__main__":
    sys.exit(parser.run_main(main))
