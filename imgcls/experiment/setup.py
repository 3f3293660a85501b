"""All that a training is made of: options, checkpoint, images, run folder, warm start."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from imgcls.config.training_config import TrainingConfig
from imgcls.data.location import DataLocation
from imgcls.data.splits import DatasetSplits
from imgcls.experiment.resolve_options import resolve_aspect
from imgcls.experiment.warm_start import WarmStart, input_format, make_extractor, prepare_warm_start
from imgcls.models.source import ModelSource, base_model, previous_datasets
from imgcls.probing import features
from imgcls.storage.pixel_cache import PixelCache
from imgcls.storage.run_folder import RunFolder

PROBE_REPETITIONS = 3  # of out-of-fold probes that look for label errors: three found more than one


@dataclass(frozen=True)
class TrainingSetup:
    """All that a training is made of. `trainer_factory.make_trainer` starts from the same state at every call.

    source: the checkpoint, in a local folder. location: where the images are. cache: of decoded photos.
    """

    config: TrainingConfig
    source: ModelSource
    splits: DatasetSplits
    run: RunFolder
    location: DataLocation
    cache: PixelCache = field(default_factory=PixelCache)
    warm_start: WarmStart = field(default_factory=WarmStart)

    def with_warm_start(self) -> Self:
        """Return the setup with the aspect that its training images chose, and with its warm start.

        Rank 0 comes first; the others find its features in the cache.
        """
        with self.config.training.main_process_first():
            extractor = make_extractor(self.config, self.source, self.splits, self.cache)
            config = resolve_aspect(self.config, extractor)
            return replace(self, config=config, warm_start=prepare_warm_start(config, extractor))

    def out_of_fold_logits(self) -> dict[str, np.ndarray]:
        """Logits of linear probes that were not fitted on the image: path -> (PROBE_REPETITIONS, classes).

        Empty without a probe, and for more images than a probe is fitted on.
        """
        if self.warm_start.probe is None or self.splits.num_images > features.MAX_PROBED_IMAGES:
            return {}
        extractor = make_extractor(self.config, self.source, self.splits, self.cache)
        logits = extractor.out_of_fold_logits(
            input_format(self.config, self.source),
            self.warm_start.probe.strength,
            PROBE_REPETITIONS,
            balanced=self.config.balances_classes,
            seed=self.config.training.seed,
        )
        return dict(zip(self.splits.merged().paths, np.stack(logits, axis=1), strict=True))

    def public_sources(self) -> dict[str, Any]:
        """Where model and images come from, as far as it is public: {"base_model", "dataset", "earlier", "demo"}."""
        from_scratch = self.config.model.from_scratch
        base, earlier = (None, []) if from_scratch else (base_model(self.source), previous_datasets(self.source))
        return {
            "base_model": base,
            "dataset": self.location.hub_id,
            "earlier": earlier,
            "demo": self.location.is_demo,
        }
