"""Train an image classifier on folders of photos."""

from __future__ import annotations

import sys

from imgcls.config import parser

EXAMPLES = """\
examples:
  python scripts/train.py                                         the demo, on any machine
  accelerate launch scripts/train.py --model resnet-50            photos in ./train_images/<class>/
  accelerate launch scripts/train.py --data photos --model vit-base --epochs 5 --lr 5e-5
  torchrun --nproc_per_node 2 scripts/train.py --data photos      two processes on a CPU

exit codes: 0 done, 1 an error you can fix, 2 wrong usage, 130 stopped by Ctrl-C: give the same command to resume"""


def main() -> int:
    from imgcls.config.fields import RARE_OPTIONS
    from imgcls.config.training_config import OPTION_CLASSES
    from imgcls.config.training_options import SHORT_HELP

    parsed = parser.parse(
        OPTION_CLASSES, description=__doc__, examples=EXAMPLES, short_help=SHORT_HELP, rare=RARE_OPTIONS
    )
    parser.configure_logging()

    from imgcls.experiment import summary
    from imgcls.experiment.run import make_request, train

    finished = train(make_request(parsed))
    if finished.request.training.should_log:
        print(summary.summary_text(finished.run))
    finished.leave()
    address = finished.push()
    if address:
        print(f"pushed to {address}")
    return parser.EXIT_OK


if __name__ == "__main__":
    sys.exit(parser.run_main(main))
