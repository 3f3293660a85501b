"""Rows as samples of training and evaluation, their images kept decoded where they may be; and batches of samples."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
import PIL
import torch
from PIL import Image
from torch.utils.data import Dataset

from imgcls import images
from imgcls.augmentation import Plan, draw_variation
from imgcls.levels import Levels
from imgcls.losses import PADDING_LABEL
from imgcls.pixels import Pixels, Wanted, key_of
from imgcls.resident import REACH, Resident
from imgcls.transforms import crop, draw_box, evaluation_pixels, read_crop, resample_filter, whole_box

if TYPE_CHECKING:
    import datasets  # half a second, which prediction does not need


class _View(Dataset):
    """Rows of `datasets` with their labels and the keys of what is kept of their images.

    keys: a file's path or an image's name, for each row (None: as the rows have it).
    """

    def __init__(self, rows: datasets.Dataset, keys: Sequence[str] | None, kept: Pixels | None):
        self.rows, self.keys, self.kept = rows, keys, kept or Pixels()
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
            found = self._key_of[index, settings] = key_of(name or f"row {index} of {self.rows._fingerprint}", settings)
        return found

    def shrunk(self, indices: Sequence[int], short_px: int) -> list[np.ndarray]:
        """Photos as `images.load_shrunk` makes them, uint8 (rows, columns, 3); kept."""

        def make(index: int):
            return lambda: np.array(images.load_shrunk(self.source(index), short_px))

        settings = shrunk_settings(short_px)
        return self.kept.read([Wanted(self.key(i, settings), make(i)) for i in indices])


class TrainingView(_View):
    """Rows as training samples; its keys are (epoch, index, counted), as EpochSampler deals them.

    short_px: photos are shrunk to this shorter side before they are cropped, and kept so; None decodes each crop anew.
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        processor,
        plan: Plan,
        px: int,
        seed: int,
        *,
        padded: bool = False,
        keys: Sequence[str] | None = None,
        kept: Pixels | None = None,
        short_px: int | None = None,
    ):
        super().__init__(rows, keys, kept)
        self.padded, self.short_px = padded, short_px
        self.processor, self.plan, self.px, self.seed = processor, plan, px, seed
        self.resample = resample_filter(processor)
        self.deals_boxes = False
        self._missing: tuple[int, int] | None = None  # photos added, and photos missing, when first asked
        self.plain = EvaluationView(rows, processor, keys=keys, kept=kept) if plan.crop_share is None else None

    def __getitems__(self, keys: Sequence[tuple[int, int, bool]]) -> list[dict]:
        """{"pixel_values": uint8 (3, px, px), or float when nothing is cropped; "labels": int; "draws": (DRAWS,)}.

        While the view deals boxes, instead of pixels: "indices": int, "boxes": int (4,).
        """
        # a text seed is hashed the same on every machine
        rngs = [random.Random(f"{self.seed} {epoch} {index}") for epoch, index, _ in keys]
        indices = [index for _, index, _ in keys]
        shown = self._boxes(indices, rngs) if self.deals_boxes else self._pixels(indices, rngs)
        return [
            {
                **seen,
                "labels": self.labels[index] if counted else PADDING_LABEL,
                "draws": draw_variation(rng, self.plan),
            }
            for seen, rng, (_, index, counted) in zip(shown, rngs, keys, strict=True)
        ]

    @property
    def can_reside(self) -> bool:
        """Whether all photos are kept and may be cropped on an accelerator."""
        suits = self.short_px is not None and self.plan.crop_share is not None and self.plan.policy is None
        return (
            suits
            and not self.padded
            and self.resample in REACH
            and self.kept.holds(map(self._photo, range(len(self)))) == len(self)
        )

    def resident(self, device: torch.device) -> Resident:
        """All photos, copied to a device."""
        batches = (range(start, min(start + 64, len(self))) for start in range(0, len(self), 64))
        photos = (photo for batch in batches for photo in self.shrunk(batch, self.short_px))
        return Resident(photos, len(self), self._canvas(), device)

    def resident_bytes(self) -> int:
        """Of what `resident` takes, once all photos are kept."""
        return 3 * len(self) * math.prod(self._canvas())

    def _canvas(self) -> tuple[int, int]:
        shapes = [self.kept.shape(self._photo(i)) for i in range(len(self))]
        return max(shape[0] for shape in shapes), max(shape[1] for shape in shapes)

    def _photo(self, index: int) -> bytes:
        return self.key(index, shrunk_settings(self.short_px))

    def kept_share(self) -> float:
        """How far this run is with the photos that were not kept at the first call, 0..1; 1 where there were none."""
        if self.kept.is_full or self.short_px is None:
            return 1.0
        if self._missing is None:
            missing = len(self) - self.kept.holds(map(self._photo, range(len(self))))
            self._missing = (self.kept.added(), missing)
        before, missing = self._missing
        return min(1.0, (self.kept.added() - before) / missing) if missing else 1.0

    def _boxes(self, indices: list[int], rngs: list[random.Random]) -> list[dict]:
        shown = []
        for index, rng in zip(indices, rngs, strict=True):
            rows, columns, _ = self.kept.shape(self._photo(index))
            box = whole_box(draw_box(rng, (columns, rows), self.plan.crop_share), (columns, rows))
            shown.append({"indices": index, "boxes": box})
        return shown

    def _pixels(self, indices: list[int], rngs: list[random.Random]) -> list[dict]:
        if self.plain is not None:
            return [{"pixel_values": sample["pixel_values"]} for sample in self.plain.__getitems__(indices)]
        how = (self.px, self.resample, self.padded)
        if self.short_px is None:
            share = self.plan.crop_share

            def work(index: int, rng: random.Random):
                return lambda: read_crop(self.source(index), rng, share, *how)

            crops = self.kept.each([work(index, rng) for index, rng in zip(indices, rngs, strict=True)])
        else:

            def cut(photo: np.ndarray, rng: random.Random):
                size = (photo.shape[1], photo.shape[0])
                return lambda: crop(photo, draw_box(rng, size, self.plan.crop_share, self.padded), size, *how)

            photos = self.shrunk(indices, self.short_px)
            crops = self.kept.each([cut(photo, rng) for photo, rng in zip(photos, rngs, strict=True)])
        tensors = [torch.from_numpy(np.ascontiguousarray(seen)) for seen in crops]
        return [{"pixel_values": self._varied(seen, rng)} for seen, rng in zip(tensors, rngs, strict=True)]

    def _varied(self, pixels: torch.Tensor, rng: random.Random) -> torch.Tensor:
        if self.plan.policy is None:
            return pixels
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(rng.getrandbits(63))
            return self.plan.policy(pixels)


class EvaluationView(_View):
    """Rows as evaluation samples: exactly the values that the checkpoint's image processor gives.

    What the processor gives is kept as uint8, where that says all of it. short_px: the processor is shown the shrunk
    photos of training instead: close to what it gives, and not to be judged by.
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        processor,
        *,
        keys: Sequence[str] | None = None,
        kept: Pixels | None = None,
        short_px: int | None = None,
    ):
        super().__init__(rows, keys, kept)
        self.processor, self.short_px = processor, short_px
        self._levels: Levels | None = None
        self._settings = ""

    def __getitems__(self, indices: Sequence[int]) -> list[dict]:
        """{"pixel_values": float (3, px, px), "labels": int}."""
        if self.short_px is not None:
            pixels = [self._processed(Image.fromarray(photo)) for photo in self.shrunk(indices, self.short_px)]
        elif self.kept.folder is None:
            pixels = self.kept.each([lambda i=i: evaluation_pixels(self.source(i), self.processor) for i in indices])
        else:
            pixels = self._exact(indices)
        return [{"pixel_values": p, "labels": self.labels[i]} for p, i in zip(pixels, indices, strict=True)]

    @property
    def is_kept(self) -> bool:
        """Whether what the processor gives is kept of all images, so that none is decoded."""
        keys = (self.key(i, self._settings) for i in range(len(self)))
        return bool(self._settings) and self.kept.holds(keys) == len(self)

    def _processed(self, image: Image.Image) -> torch.Tensor:
        return self.processor(images=image, return_tensors="pt")["pixel_values"][0]

    def _exact(self, indices: Sequence[int]) -> list[torch.Tensor]:
        if self._levels is None:
            first = self._processed(Image.new("RGB", (64, 64)))
            self._settings = settings_of(self.processor)
            self._levels = Levels(self.processor, first.shape[-1])  # last: other threads go by it
        levels = self._levels

        def make(index: int):
            def packed() -> np.ndarray:
                pixels = evaluation_pixels(self.source(index), self.processor)
                whole = levels.to_uint8(pixels)
                # a padding's gray is no level: then the floats themselves are kept, four bytes each
                return pixels.numpy().view(np.uint8).reshape(12, *pixels.shape[1:]) if whole is None else whole.numpy()

            return packed

        kept = self.kept.read([Wanted(self.key(i, self._settings), make(i)) for i in indices])
        return [
            levels.to_float(torch.from_numpy(p))
            if len(p) == 3
            else torch.from_numpy(p.view(np.float32).reshape(3, *p.shape[1:]))
            for p in kept
        ]


def shrunk_settings(short_px: int) -> str:
    """All that a shrunk photo depends on beside the photo."""
    return f"shrunk {short_px} pillow {PIL.__version__}"


def settings_of(processor) -> str:
    """All that an image processor's values depend on beside the image."""
    versions = [f"{name} {version(name)}" for name in ("pillow", "timm", "torch", "torchvision", "transformers")]
    return f"{processor!r} {versions}"


def collate(samples: list[dict]) -> dict[str, torch.Tensor]:
    """Samples -> batch tensors: pixel_values (B, 3, H, W), labels (B,), and in training draws (B, DRAWS).

    Boxes come as indices (B,) and boxes (B, 4) in place of pixels.
    """
    batch = {"labels": torch.tensor([s["labels"] for s in samples])}
    if "boxes" in samples[0]:
        batch |= {name: torch.tensor([s[name] for s in samples]) for name in ("indices", "boxes")}
    else:
        batch["pixel_values"] = torch.stack([s["pixel_values"] for s in samples])
    if "draws" in samples[0]:
        batch["draws"] = torch.tensor([s["draws"] for s in samples], dtype=torch.float32)
    return batch
