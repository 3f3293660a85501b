"""Rows as samples of training and evaluation, their images kept decoded where they may be; and batches of samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
import PIL
import torch
from PIL import Image
from torch.utils.data import Dataset

from imgcls.data import decoding
from imgcls.dataloading import preprocessing, random_params
from imgcls.dataloading.augmentation import AugmentationPlan
from imgcls.dataloading.crops import crop, read_crop, resample_filter
from imgcls.dataloading.levels import LevelTable
from imgcls.dataloading.preprocessing import evaluation_pixels, fast_pixels
from imgcls.models.losses import PADDING_LABEL
from imgcls.storage.pixel_cache import CacheRequest, PixelCache, cache_key
from imgcls.system.threads import map_in_threads

if TYPE_CHECKING:
    import datasets  # half a second, which prediction does not need


EIGHTH = f"an eighth pillow {PIL.__version__}"  # settings of a JPEG decoded at that scale
EIGHTHS_SHARE = 0.25  # of the room for kept photos that they may take
EIGHTHS = (256, 512)  # its shorter side: smaller ones are no use to most networks, larger ones take too much room


class _View(Dataset):
    """Rows of `datasets` with their labels and the keys of what is kept of their images.

    keys: a file's path or an image's name, for each row (None: as the rows have it).
    """

    def __init__(self, rows: datasets.Dataset, keys: Sequence[str] | None, kept: PixelCache | None):
        self.rows, self.keys, self.kept = rows, keys, kept or PixelCache()
        self.labels: list[int] = rows["label"][:]
        self._key_of: dict[tuple, bytes] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key) -> dict:
        """One sample; several at once are quicker."""
        return self.__getitems__([key])[0]

    def source(self, index: int) -> str | bytes:
        """Path or encoded bytes of an image."""
        image = self.rows[index]["image"]
        return image["bytes"] or image["path"]

    def key(self, index: int, settings: str) -> bytes:
        """What an image's pixels are kept under."""
        found = self._key_of.get((index, settings))
        if found is None:
            name = self.keys[index] if self.keys is not None else self.rows[index]["image"]["path"]
            found = self._key_of[index, settings] = cache_key(
                name or f"row {index} of {self.rows._fingerprint}", settings
            )
        return found

    def shrunk(self, indices: Sequence[int], short_px: int) -> list[np.ndarray]:
        """Photos as `decoding.load_shrunk` makes them, uint8 (rows, columns, 3); kept."""

        def make(index: int):
            return lambda: np.array(
                decoding.load_shrunk(self.source(index), short_px, self.kept.get(self.key(index, EIGHTH)))
            )

        settings = shrunk_settings(short_px)
        return self.kept.read([CacheRequest(self.key(i, settings), make(i)) for i in indices])


class TrainingDataset(_View):
    """Rows as training samples; its keys are (epoch, index, counted), as EpochSampler deals them.

    short_px: photos are shrunk to this shorter side before they are cropped, and kept so; None decodes each crop anew.
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        processor,
        plan: AugmentationPlan,
        px: int,
        seed: int,
        *,
        padded: bool = False,
        keys: Sequence[str] | None = None,
        kept: PixelCache | None = None,
        short_px: int | None = None,
    ):
        super().__init__(rows, keys, kept)
        self.padded, self.short_px = padded, short_px
        self.processor, self.plan, self.px, self.seed = processor, plan, px, seed
        self.resample = resample_filter(processor)
        self._missing: tuple[int, int] | None = None  # photos added, and photos missing, when first asked
        self.plain = EvaluationDataset(rows, processor, keys=keys, kept=kept) if plan.crop_share is None else None

    def __getitems__(self, keys: Sequence[tuple[int, int, bool]]) -> list[dict]:
        """{"pixel_values": uint8 (3, px, px), or float when nothing is cropped; "labels": int; "draws": (DRAWS,)}.

        The pixels are mirrored as drawn; `DeviceAugmentation` does the rest.
        """
        numbers = random_params.uniform(self.seed, [key[:2] for key in keys])
        varied = random_params.augmentation_params(numbers, self.plan)
        shown = self._pixels([index for _, index, _ in keys], numbers, varied[:, :2] != 0)
        return [
            {"pixel_values": pixels, "labels": self.labels[index] if counted else PADDING_LABEL, "draws": drawn}
            for pixels, drawn, (_, index, counted) in zip(shown, varied.tolist(), keys, strict=True)
        ]

    def kept_size(self, index: int) -> tuple[int, int]:
        """Width and height of a photo that is kept."""
        rows, columns, _ = self.kept.shape(self._photo(index))
        return columns, rows

    def missing(self) -> int:
        """How many photos are not kept yet."""
        return len(self) - self.kept.count(map(self._photo, range(len(self))))

    def _photo(self, index: int) -> bytes:
        return self.key(index, shrunk_settings(self.short_px))

    def kept_share(self) -> float:
        """How far this run is with the photos that were not kept at the first call, 0..1; 1 where there were none."""
        if self.kept.is_full or self.short_px is None:
            return 1.0
        if self._missing is None:
            self._missing = (self.kept.count_added(), self.missing())
        before, missing = self._missing
        return min(1.0, (self.kept.count_added() - before) / missing) if missing else 1.0

    def _pixels(self, indices: list[int], numbers: np.ndarray, mirrored: np.ndarray) -> list[torch.Tensor]:
        if self.plain is not None:
            shown = self.plain.__getitems__(indices)
            axes = [[axis for axis, drawn in zip((-1, -2), own, strict=True) if drawn] for own in mirrored]
            return [sample["pixel_values"].flip(own) for sample, own in zip(shown, axes, strict=True)]
        how = (self.px, self.resample, self.padded)
        share = self.plan.crop_share
        if self.short_px is None:

            def work(index: int, own: np.ndarray, mirror: np.ndarray):
                return lambda: read_crop(self.source(index), own, share, *how, mirror)

            crops = map_in_threads([work(*each) for each in zip(indices, numbers, mirrored, strict=True)])
        else:

            def cut(photo: np.ndarray, box: np.ndarray, size: np.ndarray, mirror: np.ndarray):
                return lambda: crop(photo, box, size, *how, mirror)

            photos = self.shrunk(indices, self.short_px)
            sizes = np.array([photo.shape[1::-1] for photo in photos]).reshape(-1, 2)
            boxes = random_params.crop_boxes(numbers, sizes, share, self.padded)
            crops = map_in_threads([cut(*each) for each in zip(photos, boxes, sizes, mirrored, strict=True)])
        return [self._varied(torch.from_numpy(seen), own) for seen, own in zip(crops, numbers, strict=True)]

    def _varied(self, pixels: torch.Tensor, numbers: np.ndarray) -> torch.Tensor:
        if self.plan.policy is None:
            return pixels
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(numbers[random_params.POLICY] * 2**53))
            return self.plan.policy(pixels)


class EvaluationDataset(_View):
    """Rows as evaluation samples: exactly the values that the checkpoint's image processor gives.

    What the processor gives is kept as uint8, where that says all of it. short_px: the processor is shown the shrunk
    photos of training instead; is_fast: large JPEGs decoded at a smaller scale, resized quickly, and nothing is kept.
    Both are close to what it gives, and not to be judged by.
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        processor,
        *,
        keys: Sequence[str] | None = None,
        kept: PixelCache | None = None,
        short_px: int | None = None,
        is_fast: bool = False,
    ):
        super().__init__(rows, keys, kept)
        self.processor, self.short_px = processor, short_px
        self._fast = fast_pixels(processor, preprocessing.fast_preprocess(processor)) if is_fast else None
        self._levels: LevelTable | None = None
        self._settings = ""

    def __getitems__(self, indices: Sequence[int]) -> list[dict]:
        """{"pixel_values": float (3, px, px), "labels": int}."""
        if self._fast is not None:
            pixels = [self._fast(self.source(i)) for i in indices]
        elif self.short_px is not None:
            pixels = [self._processed(Image.fromarray(photo)) for photo in self.shrunk(indices, self.short_px)]
        elif self.kept.folder is None:
            pixels = map_in_threads([lambda i=i: evaluation_pixels(self.source(i), self.processor) for i in indices])
        else:
            pixels = self._exact(indices)
        return [{"pixel_values": p, "labels": self.labels[i]} for p, i in zip(pixels, indices, strict=True)]

    @property
    def is_kept(self) -> bool:
        """Whether what the processor gives is kept of all images, so that none is decoded."""
        keys = (self.key(i, self._settings) for i in range(len(self)))
        return bool(self._settings) and self.kept.count(keys) == len(self)

    def _processed(self, image: Image.Image) -> torch.Tensor:
        return self.processor(images=image, return_tensors="pt")["pixel_values"][0]

    def _exact(self, indices: Sequence[int]) -> list[torch.Tensor]:
        if self._levels is None:
            first = self._processed(Image.new("RGB", (64, 64)))
            self._settings = processor_settings(self.processor)
            self._levels = LevelTable(self.processor, first.shape[-1])  # last: other threads go by it
        levels = self._levels

        def make(index: int):
            def packed() -> np.ndarray:
                pixels = evaluation_pixels(self.source(index), self.processor)
                whole = levels.to_uint8(pixels)
                # a padding's gray is no level: then the floats themselves are kept, four bytes each
                return pixels.numpy().view(np.uint8).reshape(12, *pixels.shape[1:]) if whole is None else whole.numpy()

            return packed

        kept = self.kept.read([CacheRequest(self.key(i, self._settings), make(i)) for i in indices])
        return [
            levels.to_float(torch.from_numpy(p))
            if len(p) == 3
            else torch.from_numpy(p.view(np.float32).reshape(3, *p.shape[1:]))
            for p in kept
        ]


def caching_thumbnails(
    kept: PixelCache, keys: Sequence[str]
) -> Callable[[int, Image.Image, tuple[int, int]], None] | None:
    """What keeps photos that `audit.run_audit` has decoded, at an eighth of their size, for `shrunk` to start from.

    keys: of the images. None where nothing is kept. They take a share of the room at most: training needs the rest.
    """
    if kept.folder is None:
        return None
    room = EIGHTHS_SHARE * kept.most_bytes

    def keep(position: int, pixels: Image.Image, size: tuple[int, int]) -> None:
        nonlocal room
        is_eighth = pixels.size == tuple(math.ceil(side / 8) for side in size)
        if is_eighth and EIGHTHS[0] <= min(pixels.size) <= EIGHTHS[1] and room > 0:
            room -= 3 * math.prod(pixels.size)
            kept.add(cache_key(keys[position], EIGHTH), np.asarray(pixels))

    return keep


def shrunk_settings(short_px: int) -> str:
    """All that a shrunk photo depends on beside the photo."""
    return f"shrunk {short_px} {decoding.SCALED_DECODE_MARGIN} pillow {PIL.__version__}"


def processor_settings(processor) -> str:
    """All that an image processor's values depend on beside the image."""
    versions = [f"{name} {version(name)}" for name in ("pillow", "timm", "torch", "torchvision", "transformers")]
    return f"{processor!r} {versions}"


def collate(samples: list[dict] | dict) -> dict[str, torch.Tensor]:
    """Samples -> batch tensors: pixel_values (B, 3, H, W), labels (B,), and in training draws (B, DRAWS).

    What is a batch already stays as it is.
    """
    if isinstance(samples, dict):
        return samples
    batch = {
        "labels": torch.tensor([s["labels"] for s in samples]),
        "pixel_values": torch.stack([s["pixel_values"] for s in samples]),
    }
    if "draws" in samples[0]:
        batch["draws"] = torch.tensor([s["draws"] for s in samples], dtype=torch.float32)
    return batch
