"""A run folder -> export/model.onnx, proven to answer as torch does: runs without torch, wherever onnxruntime does."""

from __future__ import annotations

import sys

from imgcls.config import parser
from imgcls.config.inference_options import ExportOptions

EXAMPLES = """\
examples:
  python scripts/export.py --run runs/photos-resnet-50

Beside model.onnx, export.json says what has to be done to a photo first, and how the file was proven.
exit codes: 0 done, 1 an error that you can mend, 2 wrong usage"""


def main() -> int:
    given = parser.parse((ExportOptions,), description=__doc__, examples=EXAMPLES)
    parser.configure_logging()
    asked = given.make(ExportOptions)

    from imgcls.deploy import onnx_export, onnx_model
    from imgcls.models import source
    from imgcls.storage import run_folder
    from imgcls.system import hardware

    hardware.configure_process()
    onnx_model.check_packages()
    folder = source.fetch_trained_model(asked.run)
    run = run_folder.RunFolder(source.resolve_model(asked.run).folder or f"runs/{asked.run.replace('/', '-')}")
    record = onnx_export.export_onnx(folder, run)
    print(onnx_export.in_words(record, run / run_folder.EXPORT))
    return parser.EXIT_OK


if __name__ == "__main__":
    sys.exit(parser.run_main(main))
