"""Features of images from a frozen backbone, computed once, and linear probes on them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

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
from imgcls.probing.backbone import TRIAL_IMAGES, Backbone, bf16_speedup
from imgcls.probing.linear_probe import LabelledFeatures, LinearProbe
from imgcls.storage import array_cache
from imgcls.storage.pixel_cache import PixelCache
from imgcls.system import cpu

log = logging.getLogger(__name__)

MAX_PROBED_IMAGES = 10_000  # also for the head that training starts from, which is then trained on all images
CROPS = AugmentationPlan(crop_area=(0.6, 1.0), flip="horizontal")  # smaller crops lose the object
MIN_IMAGES_FOR_BF16 = 100  # whose features are computed, from which on bf16 is tried


@dataclass(frozen=True)
class ImageReading:
    """How images are read for feature extraction.

    cache: of decoded photos.
    cache_px: training images are taken from photos shrunk to this shorter side, as in training; None: as evaluation
    takes them, and all other images.
    is_fast: training images are decoded at a smaller JPEG scale and resized quickly; best where each is read once.
    """

    cache: PixelCache | None = None
    cache_px: int | None = None
    is_fast: bool = False


class FeatureExtractor:
    """Features of a data set's images from one checkpoint: the input of its head, float32 (N, D)."""

    # Of this process: settings of a network -> whether in bf16. The file cache has them too, but where it cannot be
    # written, all features of a run are still computed in the same precision.
    _uses_bf16: ClassVar[dict[str, bool]] = {}

    def __init__(
        self,
        source: ModelSource,
        splits: DatasetSplits,
        device: torch.device,
        batch_size: int,
        reading: ImageReading | None = None,
    ):
        self.source, self.splits, self.reading = source, splits, reading or ImageReading()
        self.device, self.batch_size = device, batch_size
        self.probes: dict[tuple, LinearProbe] = {}

    def backbone(self, input_format: InputFormat | None = None) -> Backbone:
        """The pretrained network with this input format (default: the checkpoint's own)."""
        return Backbone(self.source, self.splits.classes, self.device, input_format)

    def features(
        self, backbone: Backbone, split: str, indices: Sequence[int] | None = None, *, crop: int = 0, seed: int = 0
    ) -> np.ndarray:
        """Features of a split's images, or of those at some positions, from the cache if they are in it.

        crop: 0 for the images as they are evaluated; any other number for a random crop and flip of each image.
        """
        images = self.splits[split] if indices is None else self.splits[split].select(indices)
        weights = sorted(str(array_cache.file_state(str(f))) for f in self.source.local_folder.glob("*.safetensors"))
        spec = ProcessorSpec(backbone.processor)
        settings = [weights, backbone.config.to_json_string(), spec.settings]
        bf16 = self._decide_bf16(backbone, settings)
        cache = {"cache_keys": images.keys, "cache": self.reading.cache}
        cache_px = self.reading.cache_px if split == "train" else None
        is_fast = self.reading.is_fast and split == "train"
        if cache_px is not None:
            settings.append(shrunk_settings(cache_px))
        if crop:
            settings += [crop, seed, repr(CROPS)]
            spec = CropSpec(backbone.image_px, spec.resample, cache_px=cache_px)
            training = TrainingDataset(images.rows, backbone.processor, CROPS, spec, seed, **cache)
            dataset = AugmentedImageDataset(training, crop)
        else:
            dataset = EvaluationDataset(images.rows, backbone.processor, cache_px=cache_px, is_fast=is_fast, **cache)
        settings += ["fast, resized by torch"] * is_fast + ["bf16"] * bf16
        key = [settings, [array_cache.file_state(k) for k in images.keys]]
        return array_cache.cached_array("features", key, lambda: self._compute(backbone, dataset, bf16))

    def _decide_bf16(self, backbone: Backbone, settings: list) -> bool:
        """Whether a CPU computes this network in bf16: where that is clearly faster, as measured once per machine."""
        if self.device.type != "cpu" or not cpu.has_bf16() or self.splits.num_images < MIN_IMAGES_FOR_BF16:
            return False

        def measure() -> np.ndarray:
            images = EvaluationDataset(self.splits.train.rows, backbone.processor, is_fast=True)
            pixels = [images[i]["pixel_values"] for i in range(min(len(images), TRIAL_IMAGES))]
            return np.array(bf16_speedup(backbone.network, torch.stack(pixels)))

        key = [*settings, cpu.cpu_name(), torch.get_num_threads()]
        if str(key) not in self._uses_bf16:
            self._uses_bf16[str(key)] = bool(array_cache.cached_array("precision", key, measure))
        return self._uses_bf16[str(key)]

    def probe(self, input_format: InputFormat, max_images: int, *, balanced: bool, seed: int) -> LinearProbe:
        """The probe on at most `max_images` training images, a stratified sample of them; fitted once."""
        labels = np.asarray(self.splits.train.labels)
        sample = stratified_split.stratified_sample([str(label) for label in labels], max_images, seed)
        key = (input_format, len(sample), balanced, seed)
        if key not in self.probes:
            features = self.features(self.backbone(input_format), "train", sample)
            data = LabelledFeatures(features, labels[sample], len(self.splits.classes))
            probe = linear_probe.fit_probe(data, balanced=balanced, seed=seed)
            log.info(
                "probe: %s: accuracy %.3f, loss %.3f (cross-validated on %d training images)",
                input_format,
                probe.correct.mean(),
                probe.losses.mean(),
                len(probe.losses),
            )
            self.probes[key] = probe
        return self.probes[key]

    def out_of_fold_logits(
        self, input_format: InputFormat, strength: float, repetitions: int, *, balanced: bool, seed: int
    ) -> list[np.ndarray]:
        """Logits of every image, split after split, by probes fitted without it: (N, K) for each repetition."""
        backbone = self.backbone(input_format)
        features = np.concatenate([self.features(backbone, split) for split, _ in self.splits.items()])
        images = self.splits.merged()
        data = LabelledFeatures(features, np.array(images.labels), len(self.splits.classes))
        return [
            linear_probe.out_of_fold_logits(data, strength, images.groups, balanced=balanced, seed=seed + k)
            for k in range(repetitions)
        ]

    def _compute(self, backbone: Backbone, dataset: Dataset, bf16: bool) -> np.ndarray:
        with extract_features(backbone.network) as extract:
            return inference.compute_outputs(
                lambda pixels: extract(pixels, bf16), dataset, batch=self.batch_size, device=self.device
            )
