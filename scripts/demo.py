"""A run folder -> a page in the browser on which anyone can try the model."""

from __future__ import annotations

import signal
import sys
import threading

from imgcls.config import parser
from imgcls.config.inference_options import DemoOptions

EXAMPLES = """\
examples:
  python scripts/demo.py --run runs/photos-resnet-50
  python scripts/demo.py --run runs/photos-resnet-50 --host 0.0.0.0 --port 8000
  python scripts/demo.py --run owner/name --share --flag_into none

Needs gradio: pip install gradio. Only this machine sees the page, unless --host or --share says otherwise.
exit codes: 0 stopped with Ctrl-C, 1 an error that you can mend, 2 wrong usage"""


def main() -> int:
    given = parser.parse((DemoOptions,), description=__doc__, examples=EXAMPLES)
    parser.configure_logging()
    asked = given.make(DemoOptions)

    from imgcls.deploy import demo_app, demo_model

    into = None if asked.flag_into == "none" else asked.flag_into or demo_model.flagged(asked.run)
    page = demo_app.build_app(asked.run, flag_into=into, min_precision=asked.min_precision, batch_size=asked.batch_size)
    print(demo_app.serve(page, asked.host, asked.port, asked.share), flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or what was uploaded would stay behind
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        parser.log.info("stopped")
        demo_app.stop(page)
    return parser.EXIT_OK


if __name__ == "__main__":
    sys.exit(parser.run_main(main))
