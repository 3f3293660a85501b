"""A frozen backbone and images -> features, computed once; probes on them, and the input that they like best."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from imgcls.data import stratified_split
from imgcls.data.splits import DatasetSplits
from imgcls.dataloading.augmentation import AugmentationPlan
from imgcls.dataloading.crops import CropSpec
from imgcls.dataloading.feature_dataset import AugmentedImageDataset
from imgcls.dataloading.image_datasets import EvaluationDataset, TrainingDataset, shrunk_settings
from imgcls.dataloading.processor_spec import ProcessorSpec
from imgcls.models import inference
from imgcls.models.feature_extraction import extract_features
from imgcls.models.input_size import InputFormat
from imgcls.models.source import ModelSource
from imgcls.probing import linear_probe
from imgcls.probing.backbone import TRIED_IMAGES, Backbone, bf16_gain
from imgcls.storage import array_cache
from imgcls.storage.pixel_cache import PixelCache
from imgcls.system import cpu

log = logging.getLogger(__name__)

PROBED_IMAGES = 10_000  # and the head to start from is fitted on so many: it is trained further on all
VIEWS = AugmentationPlan(
    crop_area=(0.6, 1.0), flip="horizontal"
)  # of views beyond the first; heavier ones lose the object
WORTH_TRYING = 100  # images whose features are computed, from which on bf16 is tried
_DECIDED: dict[str, bool] = {}  # in this process: settings of a network -> whether in bf16


class FeatureExtractor:
    """Features of a data set's images from one checkpoint: what is given to the head, float32 (N, D).

    kept: where photos are kept. short_px: those of training images are of photos shrunk to this, as training sees them;
    None takes them, as those of all others are taken, of what evaluation sees. is_fast: those of training images are
    taken from JPEGs decoded at a smaller scale, and resized quickly, which is best where no photo is looked at twice.
    """

    def __init__(
        self,
        source: ModelSource,
        splits: DatasetSplits,
        *,
        device: torch.device,
        batch: int,
        kept: PixelCache | None = None,
        short_px: int | None = None,
        is_fast: bool = False,
    ):
        self.source, self.splits, self.kept, self.short_px, self.is_fast = source, splits, kept, short_px, is_fast
        self.probes: dict[tuple, linear_probe.LinearProbe] = {}
        self.how = {"batch": batch, "device": device}

    def build(self, image_px: int | None = None, aspect: str | None = None) -> Backbone:
        """The pretrained network with this input, which is loaded only if features have to be computed."""
        return Backbone(self.source, self.splits.classes, self.how["device"], image_px, aspect)

    def features(
        self, built: Backbone, split: str, at: Sequence[int] | None = None, *, view: int = 0, seed: int = 0
    ) -> np.ndarray:
        """Features of a split's images, or of those at some positions; kept in the cache.

        view: 0 for the images as they are evaluated; every other number for random crops and mirror images of its own.
        """
        rows, keys = self.splits[split].rows, self.splits[split].keys
        if at is not None:
            rows, keys = rows.select(at), [keys[i] for i in at]
        weights = sorted(str(array_cache.file_state(f)) for f in self.source.folder.glob("*.safetensors"))
        spec = ProcessorSpec(built.processor)
        settings = [weights, built.config.to_json_string(), spec.settings]
        lower = self._takes_bf16(built, settings)
        cache = {"cache_keys": keys, "cache": self.kept}
        cache_px = self.short_px if split == "train" else None
        is_fast = self.is_fast and split == "train"
        if cache_px is not None:
            settings.append(shrunk_settings(cache_px))
        if view:
            settings += [view, seed, repr(VIEWS)]
            crop = CropSpec(built.image_px, spec.resample, cache_px=cache_px)
            shown = AugmentedImageDataset(TrainingDataset(rows, built.processor, VIEWS, crop, seed, **cache), view)
        else:
            shown = EvaluationDataset(rows, built.processor, cache_px=cache_px, is_fast=is_fast, **cache)
        settings += ["fast, resized by torch"] * is_fast + ["bf16"] * lower
        key = [settings, [array_cache.file_state(k) for k in keys]]
        return array_cache.cached_array("features", key, lambda: self._compute(built, shown, lower))

    def _takes_bf16(self, built: Backbone, settings: list) -> bool:
        """Whether a CPU computes this network in bf16: where that is clearly faster, as tried once on each machine."""
        images = self.splits.num_images
        if self.how["device"].type != "cpu" or not cpu.has_bf16() or images < WORTH_TRYING:
            return False

        def gain() -> np.ndarray:
            view = EvaluationDataset(self.splits.train.rows, built.processor, is_fast=True)
            few = [view[i]["pixel_values"] for i in range(min(len(view), TRIED_IMAGES))]
            return np.array(bf16_gain(built.network, torch.stack(few)))

        key = [*settings, cpu.cpu_name(), torch.get_num_threads()]
        if str(key) not in _DECIDED:  # also where the cache cannot be written: all features of a run are of one kind
            _DECIDED[str(key)] = bool(array_cache.cached_array("precision", key, gain))
        return _DECIDED[str(key)]

    def probe(self, shown: InputFormat, most: int, *, balanced: bool, seed: int) -> linear_probe.LinearProbe:
        """The probe on a sample of the training images, all of them if they are not more than `most`; fitted once."""
        labels = np.asarray(self.splits.train.labels)
        at = stratified_split.stratified_sample([str(label) for label in labels], most, seed)
        asked = (shown, len(at), balanced, seed)
        if asked not in self.probes:
            seen = self.features(self.build(shown.image_px, shown.aspect), "train", at)
            found = linear_probe.fit_probe(seen, labels[at], len(self.splits.classes), balanced=balanced, seed=seed)
            log.info(
                "probe: %s: accuracy %.3f, loss %.3f, cross-validated on %d training images",
                shown, found.correct.mean(), found.losses.mean(), len(found.losses),
            )  # fmt: skip
            self.probes[asked] = found
        return self.probes[asked]

    def opinions(
        self, shown: InputFormat, strength: float, count: int, *, balanced: bool, seed: int
    ) -> list[np.ndarray]:
        """Logits of every image, split after split, by `count` sets of probes that did not see it; each (N, K)."""
        built = self.build(shown.image_px, shown.aspect)
        seen = np.concatenate([self.features(built, split) for split, _ in self.splits.items()])
        images = self.splits.merged()
        given = (seen, np.array(images.labels), len(self.splits.classes), strength, images.groups)
        return [linear_probe.out_of_fold_logits(*given, balanced=balanced, seed=seed + k) for k in range(count)]

    def _compute(self, built: Backbone, shown: Dataset, lower: bool) -> np.ndarray:
        with extract_features(built.network) as features:
            return inference.compute_outputs(lambda pixels: features(pixels, lower), shown, **self.how)
