"""Training and evaluation samples from rows of images, whose decoded pixels are cached where possible; batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL
import torch
from PIL import Image
from torch.utils.data import Dataset

from imgcls.data import decoding
from imgcls.dataloading import preprocessing, random_params
from imgcls.dataloading.augmentation import PARAM_COLUMNS, AugmentationPlan
from imgcls.dataloading.crops import CropSpec, crop_and_resize, read_crop
from imgcls.dataloading.processor_spec import ProcessorSpec
from imgcls.models.losses import PADDING_LABEL
from imgcls.storage.pixel_cache import CacheRequest, PixelCache, cache_key
from imgcls.system.threads import map_in_threads

if TYPE_CHECKING:
    import datasets  # half a second, which prediction does not need
    from transformers import BaseImageProcessor

THUMBNAIL_SETTINGS = f"an eighth pillow {PIL.__version__}"  # of a JPEG decoded at that scale
THUMBNAILS_FRACTION = 0.25  # of the cache that they may take
# Its shorter side in px: smaller thumbnails are of no use to most networks, larger ones take too much room.
THUMBNAIL_PX = (256, 512)


class _ImageDataset(Dataset):
    """Rows of `datasets` with their labels and the cache keys of their images.

    cache_keys: a file's path or an image's name for each row; None: the rows' own paths. cache: None stores nothing.
    cache_px: shorter side to which photos are shrunk.
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        processor: BaseImageProcessor,
        cache_keys: Sequence[str] | None,
        cache: PixelCache | None,
        cache_px: int | None,
    ):
        self.rows, self.spec = rows, ProcessorSpec(processor)
        self.cache_keys, self.cache, self.cache_px = cache_keys, cache or PixelCache(), cache_px
        self.labels: list[int] = rows["label"][:]
        self._keys: dict[tuple[int, str], bytes] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: Any) -> dict:
        """One sample; several at once are faster."""
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence) -> list[dict]:
        """The samples of a batch."""
        raise NotImplementedError

    def source(self, index: int) -> str | bytes:
        """Path or encoded bytes of an image."""
        image = self.rows[index]["image"]
        return image["bytes"] or image["path"]

    def key(self, index: int, settings: str) -> bytes:
        """The cache key of an image's pixels, which depend on `settings`."""
        key = self._keys.get((index, settings))
        if key is None:
            name = self.cache_keys[index] if self.cache_keys is not None else self.rows[index]["image"]["path"]
            name = name or f"row {index} of {self.rows._fingerprint}"
            key = self._keys[index, settings] = cache_key(name, settings)
        return key

    def shrunk_photos(self, indices: Sequence[int]) -> list[np.ndarray]:
        """Photos shrunk to `cache_px` by `decoding.load_shrunk`, uint8 (rows, columns, 3); cached.

        Raises ValueError without `cache_px`.
        """
        cache_px = self.cache_px
        if cache_px is None:
            raise ValueError("Expected a dataset with cache_px, got None. Pass the size of cached photos.")
        return self.cache.read([CacheRequest(self._shrunk_key(i), partial(self._shrink, i, cache_px)) for i in indices])

    def _shrunk_key(self, index: int) -> bytes:
        return self.key(index, shrunk_settings(self.cache_px))

    def _shrink(self, index: int, cache_px: int) -> np.ndarray:
        thumbnail = self.cache.get(self.key(index, THUMBNAIL_SETTINGS))
        return np.array(decoding.load_shrunk(self.source(index), cache_px, thumbnail))


class TrainingDataset(_ImageDataset):
    """Rows as training samples; keys are (epoch, index, counted), as `EpochSampler` yields them."""

    def __init__(
        self,
        rows: datasets.Dataset,
        processor: BaseImageProcessor,
        plan: AugmentationPlan,
        crop: CropSpec,
        seed: int,
        *,
        cache_keys: Sequence[str] | None = None,
        cache: PixelCache | None = None,
    ):
        super().__init__(rows, processor, cache_keys, cache, crop.cache_px)
        self.plan, self.crop, self.seed = plan, crop, seed
        self.crop_area = plan.crop_area or (1.0, 1.0)
        self._initial_counts: tuple[int, int] | None = None  # photos added and missing, at first use
        self._uncropped = None
        if plan.crop_area is None:
            self._uncropped = EvaluationDataset(rows, processor, cache_keys=cache_keys, cache=cache)

    def __getitems__(self, keys: Sequence[tuple[int, int, bool]]) -> list[dict]:
        """{"pixel_values": (3, px, px), "labels": int, "augmentation_params": (PARAMS_PER_IMAGE,)} for each key.

        The pixels are uint8, or float without crops, and already flipped; `DeviceAugmentation` does the rest. A key
        that is not counted has PADDING_LABEL.
        """
        uniforms = random_params.uniform(self.seed, [key[:2] for key in keys])
        params = random_params.augmentation_params(uniforms, self.plan)
        pixels = self._pixels([index for _, index, _ in keys], uniforms, params[:, PARAM_COLUMNS.flips] != 0)
        return [
            {
                "pixel_values": image,
                "labels": self.labels[index] if counted else PADDING_LABEL,
                "augmentation_params": image_params,
            }
            for image, image_params, (_, index, counted) in zip(pixels, params.tolist(), keys, strict=True)
        ]

    def cached_size(self, index: int) -> tuple[int, int]:
        """Width and height of a photo in the cache. Raises KeyError for others."""
        rows, columns, _ = self.cache.shape(self._shrunk_key(index))
        return columns, rows

    def count_uncached(self) -> int:
        """Number of photos that are not in the cache yet."""
        return len(self) - self.cache.count(map(self._shrunk_key, range(len(self))))

    def cache_progress(self) -> float:
        """Fraction of the photos missing in the cache at the first call that are cached now; 1 where none was."""
        if self.cache.is_full or self.cache_px is None:
            return 1.0
        if self._initial_counts is None:
            self._initial_counts = (self.cache.count_added(), self.count_uncached())
        added, missing = self._initial_counts
        return min(1.0, (self.cache.count_added() - added) / missing) if missing else 1.0

    def _pixels(self, indices: list[int], uniforms: np.ndarray, flips: np.ndarray) -> list[torch.Tensor]:
        if self._uncropped is not None:
            samples = self._uncropped.__getitems__(indices)
            axes = [[axis for axis, is_flipped in zip((-1, -2), pair, strict=True) if is_flipped] for pair in flips]
            return [sample["pixel_values"].flip(flipped) for sample, flipped in zip(samples, axes, strict=True)]
        if self.cache_px is None:
            calls = [partial(self._read_crop, *image) for image in zip(indices, uniforms, flips, strict=True)]
        else:
            photos = self.shrunk_photos(indices)
            sizes = np.array([photo.shape[1::-1] for photo in photos]).reshape(-1, 2)
            boxes = random_params.crop_boxes(uniforms, sizes, self.crop_area, self.crop.padded)
            images = zip(photos, boxes, sizes, [self.crop] * len(photos), flips, strict=True)
            calls = [partial(crop_and_resize, *image) for image in images]
        crops = map_in_threads(calls)
        return [self._apply_policy(torch.from_numpy(crop), own) for crop, own in zip(crops, uniforms, strict=True)]

    def _read_crop(self, index: int, uniforms: np.ndarray, flips: np.ndarray) -> np.ndarray:
        return read_crop(self.source(index), uniforms, self.crop_area, self.crop, flips)

    def _apply_policy(self, pixels: torch.Tensor, uniforms: np.ndarray) -> torch.Tensor:
        if self.plan.policy is None:
            return pixels
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(uniforms[random_params.UNIFORM_COLUMNS.policy] * 2**53))
            return self.plan.policy(pixels)


class EvaluationDataset(_ImageDataset):
    """Rows as evaluation samples: exactly the values of the checkpoint's image processor.

    They are cached as uint8 where that loses nothing. Two faster ways are close to these values, and not for
    evaluation: cache_px applies the processor to the shrunk photos of training; is_fast decodes large JPEGs at a
    smaller scale, resizes without the processor, and caches nothing.
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        processor: BaseImageProcessor,
        *,
        cache_keys: Sequence[str] | None = None,
        cache: PixelCache | None = None,
        cache_px: int | None = None,
        is_fast: bool = False,
    ):
        super().__init__(rows, processor, cache_keys, cache, cache_px)
        self._fast_pixels = None
        if is_fast:
            self._fast_pixels = preprocessing.fast_pixels(processor, preprocessing.fast_preprocess(self.spec))

    def __getitems__(self, indices: Sequence[int]) -> list[dict]:
        """{"pixel_values": float (3, px, px), "labels": int} for each index."""
        pixels = self._pixels(indices)
        return [{"pixel_values": p, "labels": self.labels[i]} for p, i in zip(pixels, indices, strict=True)]

    @property
    def is_cached(self) -> bool:
        """Whether the processor's values of all images are in the cache, so that none has to be decoded."""
        if self.cache.folder is None:
            return False
        return self.cache.count(self.key(i, self.spec.settings) for i in range(len(self))) == len(self)

    def _pixels(self, indices: Sequence[int]) -> list[torch.Tensor]:
        if self._fast_pixels is not None:
            return [self._fast_pixels(self.source(i)) for i in indices]
        if self.cache_px is not None:
            return [self.spec.pixel_values(Image.fromarray(photo)) for photo in self.shrunk_photos(indices)]
        if self.cache.folder is None:
            return map_in_threads([partial(self._exact_pixels, i) for i in indices])
        table, settings = self.spec.level_table, self.spec.settings
        requests = [CacheRequest(self.key(i, settings), partial(self._packed_pixels, i)) for i in indices]
        return [table.unpack(packed) for packed in self.cache.read(requests)]

    def _exact_pixels(self, index: int) -> torch.Tensor:
        return self.spec.pixel_values(decoding.load_rgb(self.source(index)))

    def _packed_pixels(self, index: int) -> np.ndarray:
        return self.spec.level_table.pack(self._exact_pixels(index))


def caching_thumbnails(
    cache: PixelCache, cache_keys: Sequence[str]
) -> Callable[[int, Image.Image, tuple[int, int]], None] | None:
    """A function that caches images which `audit.run_audit` decoded at an eighth of their size, for `shrunk_photos`.

    None without a cache. Thumbnails take at most THUMBNAILS_FRACTION of the cache: training needs the rest.
    """
    if cache.folder is None:
        return None
    room = THUMBNAILS_FRACTION * cache.most_bytes

    def add(index: int, image: Image.Image, size: tuple[int, int]) -> None:
        nonlocal room
        is_eighth = image.size == tuple(math.ceil(side / 8) for side in size)
        if is_eighth and THUMBNAIL_PX[0] <= min(image.size) <= THUMBNAIL_PX[1] and room > 0:
            room -= 3 * math.prod(image.size)
            cache.add(cache_key(cache_keys[index], THUMBNAIL_SETTINGS), np.asarray(image))

    return add


def shrunk_settings(cache_px: int | None) -> str:
    """Everything besides the photo that a shrunk photo depends on, as part of cache keys."""
    return f"shrunk {cache_px} {decoding.SCALED_DECODE_MARGIN} pillow {PIL.__version__}"


def collate(samples: list[dict] | dict) -> dict[str, torch.Tensor]:
    """Batch tensors: pixel_values (B, 3, H, W), labels (B,); in training augmentation_params (B, PARAMS_PER_IMAGE).

    What is a batch already is returned as it is.
    """
    if isinstance(samples, dict):
        return samples
    batch = {
        "labels": torch.tensor([s["labels"] for s in samples]),
        "pixel_values": torch.stack([s["pixel_values"] for s in samples]),
    }
    if "augmentation_params" in samples[0]:
        params = [s["augmentation_params"] for s in samples]
        batch["augmentation_params"] = torch.tensor(params, dtype=torch.float32)
    return batch
