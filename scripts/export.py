"""Export a trained model to ONNX: a file that runs without torch, proven to predict the same."""

from __future__ import annotations

import sys

from imgcls.config import parser
from imgcls.config.inference_options import ExportOptions

EXAMPLES = """\
examples:
  python scripts/export.py --run runs/photos-resnet-50

export.json, next to model.onnx, tells how a photo is preprocessed and how the file was verified.
exit codes: 0 done, 1 an error you can fix, 2 wrong usage"""


def main() -> int:
    """Parse the options, export, print the result."""
    options = parser.parse((ExportOptions,), description=__doc__, examples=EXAMPLES).make(ExportOptions)
    parser.configure_logging()

    from imgcls.deploy import onnx_export, onnx_model
    from imgcls.evaluation.loaded_model import LoadedModel

    onnx_model.check_packages()
    model = LoadedModel.load(options.run, device="cpu")
    record = onnx_export.export_model(model)
    print(onnx_export.export_text(record, model.run / "export"))
    return parser.EXIT_OK


if __name__ == "__main__":
    sys.exit(parser.run_main(main))
