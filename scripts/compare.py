"""Compare runs in one table: data, model, accuracy with interval, time, size, latency, and the options that differ."""

from __future__ import annotations

import json
import sys

from imgcls.config import parser
from imgcls.config.inference_options import CompareOptions

EXAMPLES = """\
examples:
  python scripts/compare.py runs/*
  python scripts/compare.py runs/photos-resnet-50 runs/photos-vit-base --out compare.html

exit codes: 0 done, 1 error you can fix, 2 wrong usage"""


def main() -> int:
    given = parser.parse(
        (CompareOptions,),
        description=__doc__,
        examples=EXAMPLES,
        positional=("run", "run folders of finished trainings"),
    )
    parser.configure_logging()
    options = given.make(CompareOptions)

    import torch

    from imgcls.report import comparison
    from imgcls.storage.run_folder import RunFolder
    from imgcls.system import hardware

    hardware.configure_process()
    device = torch.device(hardware.accelerator() or "cpu")
    runs = comparison.compare_runs(given.values.get("run", []), device)
    print(json.dumps(runs.as_dict(), indent=2) if options.json else comparison.comparison_table(runs))
    if options.out:
        RunFolder(".").write_text(options.out, comparison.render_comparison(runs))
        print(f"see {options.out}", file=sys.stderr)
    return parser.EXIT_OK


if __name__ == "__main__":
    sys.exit(parser.run_main(main))
