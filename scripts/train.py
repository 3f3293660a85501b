"""Class folders and a model's name -> a run folder with the best model, honest numbers and all it takes to use it."""

from __future__ import annotations

import sys

from imgcls.config import parser
from imgcls.config.data_options import DataOptions
from imgcls.config.fields import RARE_OPTIONS, RunOptions
from imgcls.config.model_options import AugmentOptions, ModelOptions, TuneOptions
from imgcls.config.performance_options import PerformanceOptions

EXAMPLES = """\
examples:
  python scripts/train.py                                         the demo, on any machine
  accelerate launch scripts/train.py --model resnet-50            photos in ./train_images/<class>/
  accelerate launch scripts/train.py --data photos --model vit-base --epochs 5 --lr 5e-5
  torchrun --nproc_per_node 2 scripts/train.py --data photos      two processes on a CPU

exit codes: 0 done, 1 an error that you can mend, 2 wrong usage"""


def main() -> int:
    from imgcls.config.training_options import SHORT_HELP, TrainingOptions

    kinds = (DataOptions, ModelOptions, TuneOptions, AugmentOptions, PerformanceOptions, TrainingOptions, RunOptions)
    given = parser.parse(kinds, description=__doc__, examples=EXAMPLES, shown=SHORT_HELP, rare=RARE_OPTIONS)
    parser.configure_logging()

    from imgcls.audit import screening
    from imgcls.data import dataset, demo_digits
    from imgcls.data.location import resolve_location
    from imgcls.data.splits import make_splits
    from imgcls.dataloading import image_datasets
    from imgcls.experiment import hub_push, run, summary
    from imgcls.experiment.modes import choose_aspect, resolve_mode
    from imgcls.experiment.setup import TrainingSetup
    from imgcls.models.source import fetch_for_training, resolve_model
    from imgcls.storage import pixel_location
    from imgcls.storage.run_claim import check_writable
    from imgcls.storage.run_folder import RunFolder
    from imgcls.system import hardware
    from imgcls.training.checkpointing import needed_disk_bytes

    data, wanted, tune, augment, speed, command = (given.make(k) for k in kinds if k is not TrainingOptions)
    hardware.configure_process()
    args = given.make(TrainingOptions, **hardware.training_defaults())
    hardware.check_launch(args.world_size)
    run.check_options(data, wanted, tune, augment, args, given)

    # What is asked for: cheap checks first, before anything is decoded or downloaded.
    origin = None if wanted.model == "auto" else resolve_model(wanted.model)
    with args.main_process_first():
        if speed.clear_cache and args.should_save:
            pixel_location.clear_cache()
        images = dataset.open_images(resolve_location(data.data), data.image_column, data.label_column)
    kept = pixel_location.open_pixel_cache(speed.cache, speed.cache_gb)
    if "output_dir" not in given:
        args.output_dir = f"runs/{images.location.name}-{origin.short_name if origin else 'auto'}"
    folder = RunFolder(args.output_dir)
    shared = hub_push.prepare_push(args, folder.path.resolve().name)
    check_writable(folder, needed_bytes=needed_disk_bytes(origin, args.save_total_limit) if origin else 0)

    # The images: those that are sound, each in one split.
    with args.main_process_first():
        screened = screening.screen_images(
            images, data, image_datasets.caching_thumbnails(kept, images.keys), show_progress=args.should_log
        )
    splits = make_splits(images, screened.excluded, data, args.seed, screened.groups)

    # The model's files, and every option that was not given.
    if origin is None:
        wanted.model = measured_best(splits, folder, args, command.fresh)
        origin = resolve_model(wanted.model)
        check_writable(folder, needed_bytes=needed_disk_bytes(origin, args.save_total_limit))
    with args.main_process_first():
        origin, wanted.from_scratch = fetch_for_training(origin, wanted.from_scratch, images.location.is_demo)
    if images.location.is_demo and wanted.image_px is None:
        wanted.image_px = demo_digits.DEMO_INPUT_PX
    mode = resolve_mode(tune, wanted, origin, len(splits.train))
    choose_aspect(mode, tune, wanted, origin, screened.cut_share)
    follow_recipe(given, args, wanted, tune, augment, origin, splits, mode, images.location.is_demo)

    # The run: new, gone on with, or finished.
    setup = TrainingSetup(mode, origin, data, wanted, tune, augment, args, splits, folder, images.location, speed, kept)
    run.run_training(
        setup, screened.as_files(images.listing.files), given=given, fresh=command.fresh,
        callbacks=shared.callbacks if shared else lambda trainer: [],
    )  # fmt: skip
    if args.should_log:
        print(summary.summary_text(folder))
    hardware.shutdown(args.distributed_state)
    if shared:
        print(f"pushed to {hub_push.push_finished_run(folder, shared)}")
    return parser.EXIT_OK


def measured_best(splits, folder, args, fresh: bool) -> str:
    """The model that --model auto picks; what measuring imports, other trainings do not need."""
    from imgcls.probing import model_choice

    return model_choice.best_model(splits, folder, args.device, args.seed, fresh=fresh)


def follow_recipe(given, args, wanted, tune, augment, origin, splits, mode: str, is_demo: bool) -> None:
    """Set every hyper-parameter that was not given, and say why."""
    from imgcls.config import recipes
    from imgcls.experiment.modes import uses_smaller_input
    from imgcls.models import model_config
    from imgcls.system import hardware

    facts = recipes.Facts(
        images=len(splits.train),
        classes=len(splits.classes),
        largest_over_smallest=splits.train.imbalance(),
        family=model_config.family_of(origin),
        pretrained=not wanted.from_scratch,
        mode=mode,
        is_demo=is_demo,
        processes=args.world_size,
        balanced_draws=args.sampler == "balanced",
        shown_smaller=uses_smaller_input(mode, tune, wanted, origin, splits, args.seed),
    )
    for line in recipes.apply_choices(recipes.choose_options(facts, tune.recipe), given, args, tune, augment):
        parser.log.info(line)
    warning = recipes.undertraining_warning(facts, args.learning_rate)
    if warning:
        parser.log.warning("warning: %s", warning)
    if "dataloader_num_workers" not in given:
        args.dataloader_num_workers = hardware.default_loader_workers()
    if "dataloader_persistent_workers" not in given:
        args.dataloader_persistent_workers = args.dataloader_num_workers > 0


if __name__ == "__main__":
    sys.exit(parser.run_main(main))
