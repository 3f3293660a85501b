"""A run folder and labelled images -> what the model is worth on them: numbers with intervals, mistakes, a report."""

from __future__ import annotations

import sys

from imgcls.config import parser
from imgcls.config.data_options import SourceOptions
from imgcls.config.inference_options import ValidateOptions

EXAMPLES = """\
examples:
  python scripts/validate.py --run runs/photos-resnet-50                    the images that were held out
  python scripts/validate.py --run runs/photos-resnet-50 --data new_photos  class folders, called as in training
  python scripts/validate.py --run runs/photos-resnet-50 --data new_photos --compare runs/photos-vit-base --corruptions

exit codes: 0 done, 1 an error that you can mend, 2 wrong usage"""
DATA = "labelled images: class folders, a CSV or a Hub data set id, as of train.py (default: those the run held out)"


def main() -> int:
    kinds = (SourceOptions, ValidateOptions)
    given = parser.parse(kinds, description=__doc__, examples=EXAMPLES, short_help={"data": DATA})
    parser.configure_logging()
    data, asked = (given.make(kind) for kind in kinds)

    import torch

    from imgcls.errors import FolderError
    from imgcls.evaluation import calibration, evaluate, evaluation_set, held_out
    from imgcls.models import inference, source
    from imgcls.report import report_data
    from imgcls.storage import run_claim, run_folder
    from imgcls.system import hardware

    hardware.configure_process()
    device = torch.device(hardware.accelerator() or "cpu")

    def load(name: str) -> evaluate.EvaluatedModel:
        folder = source.fetch_trained_model(name)
        return evaluate.EvaluatedModel(folder, *inference.load_model(folder, device), device, asked.batch_size)

    model, other = load(asked.run), load(asked.compare) if asked.compare else None
    if other:
        evaluate.check_comparable(model, other)
    on_disk = source.resolve_model(asked.run).folder
    run = run_folder.RunFolder(on_disk or f"runs/{asked.run.replace('/', '-')}")
    of = evaluation_set.open_evaluation_set(asked, data, run, model.classes)
    folder = run_folder.RunFolder(run / run_folder.VALIDATION / of.name)
    evaluate.check_not_other_evaluation(folder, of)
    run_claim.check_writable(folder)

    logits, broken = model.logits(of)
    for error in broken.values():
        parser.log.warning("left out: %s", error)
    of = of.without(list(broken))
    if not len(logits):
        raise FolderError(f"Expected images that can be read in {data.data}, got none.")
    brought = calibration.load_calibration(run_folder.RunFolder(model.folder), asked.min_precision)
    trust = brought or calibration.uncalibrated(asked.min_precision)
    metrics = {"model": asked.run, "data": of.name, "images_of": of.place}
    metrics |= evaluate.evaluation_metrics(logits, of, model.classes, trust)
    if asked.tta:
        metrics["tta"] = evaluate.evaluate_with_tta(model, of, logits, run, trust["temperature"])
    if asked.corruptions:
        metrics["corruptions"] = evaluate.evaluate_corruptions(model, of)
    if other:
        metrics["comparison"] = evaluate.compare_models(model, other, of, logits, folder)
    metrics = evaluate.write_evaluation(folder, metrics, of, logits, model.classes)
    held_out.write_evaluation_suspects(folder)
    index = {path: i for i, path in enumerate(of.paths)}
    report_data.write_evaluation_report(
        folder,
        lambda path: of.source(index[path]),
        model.network,
        model.processor,
        data=of.images.location.name,
        calibrated_on=of.calibrated_on,
    )
    print(evaluate.in_words(metrics, of, asked.compare))
    print(f"see {folder / run_folder.REPORT}")
    return parser.EXIT_OK


if __name__ == "__main__":
    sys.exit(parser.run_main(main))
