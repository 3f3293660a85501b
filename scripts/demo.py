"""Serve a web page on which anyone can try a trained model."""

from __future__ import annotations

import sys

from imgcls.config import parser
from imgcls.config.inference_options import DemoOptions

EXAMPLES = """\
examples:
  python scripts/demo.py --run runs/photos-resnet-50
  python scripts/demo.py --run runs/photos-resnet-50 --host 0.0.0.0 --port 8000
  python scripts/demo.py --run owner/name --share --flag_into none

Needs gradio: pip install gradio. The page is only visible on this machine unless --host or --share is set.
exit codes: 0 stopped with Ctrl-C, 1 an error you can fix, 2 wrong usage"""


def main() -> int:
    """Parse the options, serve the page until Ctrl-C."""
    options = parser.parse((DemoOptions,), description=__doc__, examples=EXAMPLES).make(DemoOptions)
    parser.configure_logging()

    from imgcls.deploy import demo_app

    demo_app.run_demo(options)
    return parser.EXIT_OK


if __name__ == "__main__":
    sys.exit(parser.run_main(main))
