"""A frozen backbone and images -> features, computed once; probes on them, and the input that they like best."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import datasets
import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from imgcls.config import recipes
from imgcls.data import decoding, stratified_split
from imgcls.data.dataset import DatasetSplits
from imgcls.dataloading.augmentation import AugmentationPlan, DeviceAugmentation
from imgcls.dataloading.image_datasets import EvaluationDataset, TrainingDataset, processor_settings, shrunk_settings
from imgcls.models import classifier, inference, input_size, model_config
from imgcls.models.input_size import InputFormat
from imgcls.models.losses import PADDING_LABEL
from imgcls.models.source import ModelSource
from imgcls.probing import linear_probe
from imgcls.storage import array_cache
from imgcls.storage.pixel_cache import PixelCache
from imgcls.system import cpu

log = logging.getLogger(__name__)

COMPARED_IMAGES = 500  # views are compared on so many training images at most
PROBED_IMAGES = 10_000  # and the head to start from is fitted on so many: it is trained further on all
VIEWS = AugmentationPlan(
    crop_share=(0.6, 1.0), flip="horizontal"
)  # of views beyond the first; heavier ones lose the object
WORTH_TRYING = 100  # images whose features are computed, from which on bf16 is tried
TRIED_IMAGES, FEW_IMAGES, TRIED_S = 8, 2, 0.15
_DECIDED: dict[str, bool] = {}  # in this process: settings of a network -> whether in bf16
CLEARLY, MOST_DIFFERENCE = 1.15, 0.03  # a smaller gain is noise; what other values do to a probe
MEASURED_IMAGES = 50  # whose sizes tell whether the photos have that many pixels


class Backbone:
    """A pretrained network with an input (None: the checkpoint's own): its settings now, its weights when wanted."""

    def __init__(
        self, source: ModelSource, classes: list[str], device: torch.device, image_px: int | None, aspect: str | None
    ):
        self.config, self.processor = model_config.load_fitted_config(source, classes, image_px, aspect)
        self.image_px = input_size.input_side(self.config, self.processor)
        self.family = model_config.model_family(self.config)
        self._wanted = (source, classes, device, {"image_px": image_px, "aspect": aspect})

    @functools.cached_property
    def network(self) -> nn.Module:
        """In evaluation mode, on the device."""
        source, classes, device, shown = self._wanted
        network = classifier.build_classifier(source, classes, **shown).network
        return network.to(device, memory_format=classifier.memory_layout(network)).eval()


class FeatureExtractor:
    """Features of a division's images from one checkpoint: what is given to the head, float32 (N, D).

    kept: where photos are kept. short_px: those of training images are of photos shrunk to this, as training sees them;
    None takes them, as those of all others are taken, of what evaluation sees. is_fast: those of training images are
    taken from JPEGs decoded at a smaller scale, and resized quickly, which is best where no photo is looked at twice.
    """

    def __init__(
        self,
        source: ModelSource,
        division: DatasetSplits,
        *,
        device: torch.device,
        batch: int,
        kept: PixelCache | None = None,
        short_px: int | None = None,
        is_fast: bool = False,
    ):
        self.source, self.division, self.kept, self.short_px, self.is_fast = source, division, kept, short_px, is_fast
        self.probes: dict[tuple, linear_probe.LinearProbe] = {}
        self.how = {"batch": batch, "device": device}

    def build(self, image_px: int | None = None, aspect: str | None = None) -> Backbone:
        """The pretrained network with this input, which is loaded only if features have to be computed."""
        return Backbone(self.source, self.division.classes, self.how["device"], image_px, aspect)

    def features(
        self, built: Backbone, split: str, at: Sequence[int] | None = None, *, view: int = 0, seed: int = 0
    ) -> np.ndarray:
        """Features of a split's images, or of those at some positions; kept in the cache.

        view: 0 for the images as they are evaluated; every other number for random crops and mirror images of its own.
        """
        rows, keys = self.division.rows[split], self.division.keys[split]
        if at is not None:
            rows, keys = rows.select(at), [keys[i] for i in at]
        weights = sorted(str(array_cache.file_state(f)) for f in self.source.folder.glob("*.safetensors"))
        settings = [weights, built.config.to_json_string(), processor_settings(built.processor)]
        lower = self._takes_bf16(built, settings)
        pixels = {"keys": keys, "kept": self.kept, "short_px": self.short_px if split == "train" else None}
        is_fast = self.is_fast and split == "train"
        if pixels["short_px"] is not None:
            settings.append(shrunk_settings(self.short_px))
        if view:
            settings += [view, seed, repr(VIEWS)]
            shown = AugmentedImageDataset(
                TrainingDataset(rows, built.processor, VIEWS, built.image_px, seed, **pixels), view
            )
        else:
            shown = EvaluationDataset(rows, built.processor, is_fast=is_fast, **pixels)
        settings += ["fast, resized by torch"] * is_fast + ["bf16"] * lower
        key = [settings, [array_cache.file_state(k) for k in keys]]
        return array_cache.cached_array("features", key, lambda: self._compute(built, shown, lower))

    def _takes_bf16(self, built: Backbone, settings: list) -> bool:
        """Whether a CPU computes this network in bf16: where that is clearly faster, as tried once on each machine."""
        images = sum(map(len, self.division.rows.values()))
        if self.how["device"].type != "cpu" or not cpu.has_bf16() or images < WORTH_TRYING:
            return False

        def gain() -> np.ndarray:
            view = EvaluationDataset(self.division.rows["train"], built.processor, is_fast=True)
            few = [view[i]["pixel_values"] for i in range(min(len(view), TRIED_IMAGES))]
            return np.array(_gain_of_bf16(built.network, torch.stack(few)))

        key = [*settings, cpu.cpu_name(), torch.get_num_threads()]
        if str(key) not in _DECIDED:  # also where the cache cannot be written: all features of a run are of one kind
            _DECIDED[str(key)] = bool(array_cache.cached_array("precision", key, gain))
        return _DECIDED[str(key)]

    def probe(self, shown: InputFormat, most: int, *, balanced: bool, seed: int) -> linear_probe.LinearProbe:
        """The probe on a sample of the training images, all of them if they are not more than `most`; fitted once."""
        labels = np.asarray(self.division.labels("train"))
        at = stratified_split.stratified_sample([str(label) for label in labels], most, seed)
        asked = (shown, len(at), balanced, seed)
        if asked not in self.probes:
            seen = self.features(self.build(shown.image_px, shown.aspect), "train", at)
            found = linear_probe.fit_probe(seen, labels[at], len(self.division.classes), balanced=balanced, seed=seed)
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
        seen = np.concatenate([self.features(built, split) for split in self.division.rows])
        labels = np.concatenate([self.division.labels(split) for split in self.division.rows])
        groups = [group for of in self.division.groups.values() for group in of]
        given = (seen, labels, len(self.division.classes), strength, groups)
        return [linear_probe.out_of_fold_logits(*given, balanced=balanced, seed=seed + k) for k in range(count)]

    def _compute(self, built: Backbone, shown: Dataset, lower: bool) -> np.ndarray:
        with _features_of(built.network) as features:
            return inference.compute_outputs(lambda pixels: features(pixels, lower), shown, **self.how)


@contextlib.contextmanager
def _features_of(network: nn.Module) -> Iterator[Callable[[torch.Tensor, bool], torch.Tensor]]:
    """A function of pixels (n, 3, px, px) -> what the head is given, (n, D), in bf16 or not; for several threads."""
    seen = threading.local()
    hook = classifier.head_of(network).register_forward_pre_hook(
        lambda _, given: setattr(seen, "features", given[0].flatten(1))
    )

    def features(pixels: torch.Tensor, lower: bool) -> torch.Tensor:
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=lower):
            network(pixel_values=pixels)
        return seen.features

    try:
        yield features
    finally:
        hook.remove()


@torch.inference_mode()
def _gain_of_bf16(network: nn.Module, pixels: torch.Tensor) -> float:
    """How many times as fast as in float32 a thread computes features in bf16; 0 where these are others.

    Of a MobileNetV3-Small they differ by a quarter, and a probe on them lost 0.012 of accuracy (standard error 0.007)
    and 0.030 of the loss (0.004; five seeds of five folds of 357 photos).
    """
    threads, spent = torch.get_num_threads(), 0.0
    found, best = {}, {False: math.inf, True: math.inf}
    torch.set_num_threads(1)  # as `inference.stream_outputs` does
    try:
        with _features_of(network) as features:

            def took(some: torch.Tensor) -> dict[bool, float]:
                seconds = {}
                for lower in best:
                    started = time.perf_counter()
                    found[lower] = features(some, lower).float()
                    seconds[lower] = time.perf_counter() - started
                return seconds

            # a first pass sets up what is used from then on for as many images; slow networks are tried with few
            some = pixels[:FEW_IMAGES]
            if max(took(some).values()) < TRIED_S:
                some = pixels
                took(some)
            while spent < TRIED_S:
                seconds = took(some)
                best = {lower: min(best[lower], seconds[lower]) for lower in best}
                spent += sum(seconds.values())
    finally:
        torch.set_num_threads(threads)
    difference = float((found[True] - found[False]).abs().mean() / found[False].abs().mean())
    gain = best[False] / best[True]
    is_taken = gain >= CLEARLY and difference <= MOST_DIFFERENCE
    chosen = "in bf16," if is_taken else "in float32; bf16 would be"
    log.info("features: %s %.2f times as fast and %.1f %% off", chosen, gain, 100 * difference)
    return gain if is_taken else 0.0


def choose_input(
    extractor: FeatureExtractor, fixed_px: int | None, fixed_aspect: str | None, *, balanced: bool, seed: int
) -> InputFormat:
    """The input to tune for: its size by rule, its aspect by cross-validated probes on training images.

    The view with the lower
    cross-entropy wins: of 15 folds of 357 photos both together gave 0.79 on the images left out, the checkpoint's own
    input 0.75. What is fixed stays.
    """
    own = extractor.build()
    px = fixed_px
    if px is None:
        px = recipes.input_px(own.family, own.image_px, median_short_side(extractor.division.rows["train"], seed))
    chosen = InputFormat(px, fixed_aspect)
    if fixed_aspect is None and input_size.detect_aspect(own.processor, own.image_px) == "crop":
        ways = [InputFormat(px, aspect) for aspect in (None, "squash")]
        chosen = min(
            ways, key=lambda shown: extractor.probe(shown, COMPARED_IMAGES, balanced=balanced, seed=seed).losses.mean()
        )
    return chosen


def median_short_side(rows: datasets.Dataset, seed: int) -> float:
    """Median shorter side of the images, px."""
    sides = []
    for i in random.Random(seed).sample(range(len(rows)), min(len(rows), MEASURED_IMAGES)):
        image = rows[i]["image"]
        with decoding.open_image(image["bytes"] or image["path"]) as opened:
            sides.append(min(decoding.displayed_size(opened)))
    return statistics.median(sides)


class AugmentedImageDataset(Dataset):
    """One epoch of a training view, varied and normalised, as evaluation samples."""

    def __init__(self, training: TrainingDataset, epoch: int):
        self.training, self.epoch = training, epoch
        self.half = DeviceAugmentation(training.processor, training.plan, training.px)

    def __len__(self) -> int:
        return len(self.training)

    def __getitem__(self, index: int) -> dict:
        """{"pixel_values": float (3, px, px), "labels": int}."""
        sample = self.training[self.epoch, index, True]
        pixels = self.half(sample["pixel_values"][None], torch.tensor([sample["draws"]]))[0]
        return {"pixel_values": pixels, "labels": sample["labels"]}


class FeatureDataset(Dataset):
    """Kept features as samples, for training a head alone; keys as those of TrainingView and EvaluationView.

    features: float32 (V, N, D), V views of each image, of which the epochs take turns.
    """

    def __init__(self, features: np.ndarray, labels: Sequence[int]):
        self.features, self.labels = torch.from_numpy(features), list(labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: int | tuple[int, int, bool]) -> dict:
        """{"pixel_values": float (D,), "labels": int}."""
        epoch, index, counted = key if isinstance(key, tuple) else (0, key, True)
        return {
            "pixel_values": self.features[epoch % len(self.features), index],
            "labels": self.labels[index] if counted else PADDING_LABEL,
        }
