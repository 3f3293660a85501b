"""Run folders -> one table: data, model, accuracy with interval, time, size, latency, and which options differ."""

from __future__ import annotations

import json
import sys

from imgcls.config import parser
from imgcls.config.inference_options import CompareOptions

EXAMPLES = """\
examples:
  python scripts/compare.py runs/*
  python scripts/compare.py runs/photos-resnet-50 runs/photos-vit-base --out compare.html

exit codes: 0 done, 1 an error that you can mend, 2 wrong usage"""


def main() -> int:
    given = parser.parse(
        (CompareOptions,),
        description=__doc__,
        examples=EXAMPLES,
        positional=("run", "run folders of finished trainings"),
    )
    parser.configure_logging()
    asked = given.make(CompareOptions)

    import torch

    from imgcls.errors import ModelError, RunError
    from imgcls.report import comparison
    from imgcls.storage import run_folder
    from imgcls.system import hardware

    hardware.configure_process()
    device = torch.device(hardware.accelerator() or "cpu")
    found = []
    for name in given.values.get("run", []):
        run = run_folder.RunFolder(name)
        try:
            found.append((comparison.comparison_row(run, device), run))
        except (RunError, ModelError) as error:
            parser.log.warning("left out: %s", error)
    if not found:
        raise RunError("Expected finished runs to compare, got none. Give run folders, such as runs/*.")
    found.sort(key=lambda entry: -entry[0]["accuracy"])
    rows, runs = zip(*found, strict=True)
    same, differing = comparison.comparable(rows, runs), comparison.differing_options(runs)
    if asked.json:
        print(json.dumps({"runs": rows, "differing_options": differing, "judged_by_the_same_images": same}, indent=2))
    else:
        print(comparison.comparison_table(rows, differing, same))
    if asked.out:
        run_folder.RunFolder(".").write_text(asked.out, comparison.render_comparison(rows, differing, same))
        print(f"see {asked.out}", file=sys.stderr)
    return parser.EXIT_OK


if __name__ == "__main__":
    sys.exit(parser.run_main(main))
