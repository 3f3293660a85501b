"""Push a finished run to the Hub, with a model card and, optionally, a demo Space."""

from __future__ import annotations

import shlex
import sys

from imgcls.config import parser
from imgcls.config.inference_options import PushOptions

EXAMPLES = """\
examples:
  hf auth login                                                            once: a token with write access
  python scripts/push.py --run runs/photos-resnet-50                       to YOU/photos-resnet-50
  python scripts/push.py --run runs/photos-resnet-50 --repo lab/photos --private --include export report
  python scripts/push.py --run runs/photos-resnet-50 --space YOU/try-photos

A push that failed resumes when the command is given again. A card (README.md) that you edit is pushed as it is.
exit codes: 0 done, 1 an error you can fix, 2 wrong usage"""


def main() -> int:
    """Push as the command line says; returns the exit code."""
    options = parser.parse((PushOptions,), description=__doc__, examples=EXAMPLES).make(PushOptions)
    parser.configure_logging()

    from imgcls.hub import publish

    model, space = publish.push(options, command=shlex.join(["python", *sys.argv]))
    print(f"model  {model}")
    if space:
        print(f"page   {space}")
    return parser.EXIT_OK


if __name__ == "__main__":
    sys.exit(parser.run_main(main))
