"""Class folders and a priority -> which model to take and how to train it, with reasons; or measured on the images."""

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

exit codes: 0 done, 1 an error that you can mend, 2 wrong usage"""
SHOWN = 3  # of the models by rule: those after them have little for them


def main() -> int:
    kinds = (DataOptions, RecommendOptions)
    given = parser.parse(kinds, description=__doc__, examples=EXAMPLES)
    parser.configure_logging()

    import torch

    from imgcls.audit import screening
    from imgcls.data import dataset
    from imgcls.data.location import resolve_location
    from imgcls.data.splits import make_splits
    from imgcls.models import registry
    from imgcls.probing import model_choice, model_rules
    from imgcls.system import hardware

    data, asked = (given.make(kind) for kind in kinds)
    hardware.configure_process()
    device = torch.device(hardware.accelerator() or "cpu")
    kind = asked.device if asked.device != "auto" else "cpu" if device.type == "cpu" else "gpu"
    wish = model_rules.ModelRequest(asked.priority, asked.use_case, kind)

    images = dataset.open_images(resolve_location(data.data), data.image_column, data.label_column)
    screened = screening.screen_images(images, data, show_progress=True)
    splits = make_splits(images, screened.excluded, data, asked.seed, screened.groups)
    if asked.measure is None:
        advice = model_rules.recommend_by_rules(wish, len(splits.train))[:SHOWN]
        rows = [model_choice.recommendation_text(entry, splits, device) for entry in advice]
        found = {"pick": rows[0]["model"], "models": rows}
    else:
        names = asked.measure or list(registry.CHECKPOINTS)
        measured = model_choice.measure_models(names, splits, device, asked.seed)
        found = {"pick": model_choice.pick_model(measured, asked.priority).model, "models": [m.row() for m in measured]}
    print(json.dumps(found, indent=2) if asked.json else model_choice.measurement_table(found))
    return parser.EXIT_OK


if __name__ == "__main__":
    sys.exit(parser.run_main(main))
