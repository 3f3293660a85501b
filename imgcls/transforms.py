"""From a row to pixels, on the host: decode once, crop, resize, to uint8; augmentation does the rest on the device.

Training never shows a full-size photo to an image processor (100 ms and more each) and moves only uint8.
Evaluation is the checkpoint's own image processor, exactly. Every random choice is a pure function of
(seed, epoch, index), so it is the same with any number of workers and processes and after any kill; what is kept of an
image is a function of its file, so it is the same in every epoch and run.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate
from torch.utils.data import Dataset, Sampler

from imgcls import images
from imgcls.augmentation import Plan, draw_crop, draw_variation
from imgcls.levels import Levels
from imgcls.losses import PADDING_LABEL
from imgcls.pixels import Pixels, Wanted, key_of
from imgcls.resident import REACH, Resident

if TYPE_CHECKING:
    import datasets  # half a second, which prediction does not need

GRAY = 118  # the mean of ImageNet, with which image processors pad
# Filters that torch has for uint8, antialiased as Pillow's and up to four times as fast; Pillow has the others.
FILTERS = {Image.Resampling.BILINEAR: "bilinear", Image.Resampling.BICUBIC: "bicubic"}


def read_crop(
    source: str | bytes, rng: random.Random, share: tuple[float, float], px: int, resample: int, padded: bool = False
) -> np.ndarray:
    """A random crop of an image as uint8 (3, px, px), decoded at the smallest JPEG scale that covers it.

    The box is drawn from the header's size, so neither crop nor result depend on the decoder's scale.
    Nearest-neighbour processors see single pixels, so there the image is decoded in full. padded: of the photo in the
    middle of a gray square.
    """
    with images.open_image(source) as image:
        size = images.displayed_size(image)
        box = draw_box(rng, size, share, padded)
        scale = min(1.0, max(px / (box[2] - box[0]), px / (box[3] - box[1])))
        at_least = None if resample == Image.Resampling.NEAREST else (size[0] * scale, size[1] * scale)
        pixels = images.to_rgb(image, at_least)
    return crop(np.array(pixels), box, size, px, resample, padded)


def draw_box(
    rng: random.Random, size: tuple[int, int], share: tuple[float, float], padded: bool = False
) -> tuple[float, ...]:
    """Box of a random crop in a photo of this (width, height), or in the square around it."""
    return draw_crop(rng, *((max(size),) * 2 if padded else size), share)


def crop(
    pixels: np.ndarray, box: tuple[float, ...], size: tuple[int, int], px: int, resample: int, padded: bool = False
) -> np.ndarray:
    """The part of a photo in a box, resized: uint8 (3, px, px).

    pixels: uint8 (rows, columns, 3), the photo at any scale. box: (left, top, right, bottom) in px of `size`, which is
    the photo's own (width, height), or of the gray square around it.
    """
    rows, columns = pixels.shape[:2]
    if padded:
        side = max(rows, columns)
        square = np.full((side, side, 3), GRAY, np.uint8)
        top, left = (side - rows) // 2, (side - columns) // 2
        square[top : top + rows, left : left + columns] = pixels
        pixels, size, rows, columns = square, (max(size),) * 2, side, side
    sx, sy = columns / size[0], rows / size[1]
    name = FILTERS.get(Image.Resampling(resample))
    if name is None:
        scaled = (box[0] * sx, box[1] * sy, min(box[2] * sx, columns), min(box[3] * sy, rows))
        picture = Image.fromarray(pixels).resize((px, px), Image.Resampling(resample), box=scaled)
        return np.asarray(picture).transpose(2, 0, 1)
    left, top, right, bottom = whole_box((box[0] * sx, box[1] * sy, box[2] * sx, box[3] * sy), (columns, rows))
    planes = torch.from_numpy(pixels[top:bottom, left:right]).permute(2, 0, 1)[None]
    return interpolate(planes, (px, px), mode=name, antialias=True, align_corners=False)[0].numpy()


def whole_box(box: tuple[float, ...], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The box in whole px, at least one each way, within (width, height)."""
    left, top = (min(round(box[i]), size[i] - 1) for i in (0, 1))
    return left, top, max(round(box[2]), left + 1), max(round(box[3]), top + 1)


class _View(Dataset):
    """Rows of `datasets` with their labels and the keys of what is kept of their images.

    keys: a file's path or an image's name, for each row (None: as the rows have it).
    """

    def __init__(self, rows: datasets.Dataset, keys: Sequence[str] | None, kept: Pixels | None):
        self.rows, self.keys, self.kept = rows, keys, kept or Pixels()
        self.labels: list[int] = list(rows["label"])
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

        settings = f"shrunk {short_px}"
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
        return self.key(index, f"shrunk {self.short_px}")

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

    def _processed(self, image: Image.Image) -> torch.Tensor:
        return self.processor(images=image, return_tensors="pt")["pixel_values"][0]

    def _exact(self, indices: Sequence[int]) -> list[torch.Tensor]:
        if self._levels is None:
            first = evaluation_pixels(self.source(indices[0]), self.processor)
            self._levels = Levels(self.processor, first.shape[-1])
            self._settings = settings_of(self.processor)
        levels = self._levels

        def make(index: int):
            def packed() -> np.ndarray:
                pixels = evaluation_pixels(self.source(index), self.processor)
                whole = levels.to_uint8(pixels)
                # a padding's gray is no level: then the floats themselves are kept
                return pixels.numpy().view(np.uint8) if whole is None else whole.numpy()

            return packed

        kept = self.kept.read([Wanted(self.key(i, self._settings), make(i)) for i in indices])
        return [
            levels.to_float(torch.from_numpy(p)) if p.shape[2] == p.shape[1] else torch.from_numpy(p.view(np.float32))
            for p in kept
        ]


def settings_of(processor) -> str:
    """All that an image processor's values depend on beside the image."""
    versions = [f"{name} {version(name)}" for name in ("pillow", "timm", "torch", "torchvision", "transformers")]
    return f"{processor!r} {versions}"


def evaluation_pixels(source: str | bytes, processor) -> torch.Tensor:
    """Float (3, px, px) of one image, through the image processor as `pipeline` calls it."""
    return processor(images=images.load_rgb(source), return_tensors="pt")["pixel_values"][0]


def fast_pixels(processor) -> Callable[[str | bytes], torch.Tensor]:
    """As `evaluation_pixels` for one processor, with large JPEGs decoded at a smaller scale: nearly the same values.

    The scale is the smallest at which the shorter side has 1.25 times the pixels that the processor resizes it to,
    measured here, once. Other formats, smaller photos, and all where the processor takes the nearest pixel, which has
    to be the photo's own, give the very same values.
    """
    ramp_px = 256  # a level each, from top to bottom
    colours = (Image.linear_gradient("L"), *(Image.new("L", (ramp_px, ramp_px), level) for level in (0, 255)))
    shown = [processor(images=c.convert("RGB"), return_tensors="pt")["pixel_values"][0, 0] for c in colours]
    middle = len(shown[0]) // 2
    top, bottom = middle // 2, middle + middle // 2  # within whatever is cropped or padded
    ramp, black, white = (rows[[top, bottom], middle].double() for rows in shown)
    levels = 255 * float(((ramp - black) / (white - black)).diff())  # by so many it rises from top to bottom
    # At 1 in place of 1.25, 1 label of 357 photos changed at 192 px; at 1.25 none, and none at 1.5.
    short_px = round(1.25 * ramp_px * (bottom - top) / levels)
    scales = resample_filter(processor) != Image.Resampling.NEAREST

    def read(source: str | bytes) -> torch.Tensor:
        with images.open_image(source) as image:
            size = images.displayed_size(image)
            scale = short_px / min(size)
            pixels = images.to_rgb(image, (size[0] * scale, size[1] * scale) if scales and scale < 1 else None)
        return processor(images=pixels, return_tensors="pt")["pixel_values"][0]

    return read


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


class EpochSampler(Sampler):
    """Deals the keys of an epoch: each image once, in an order that depends on (seed, epoch) alone.

    weights: with them (one an image) an epoch draws as many images, each with a chance in proportion to its weight.

    Every batch is full: the last is filled with images of the epoch's start that are not counted, so batch norm
    never sees a batch of one, all processes take the same number of steps, and no image counts twice.
    batch_images: images of one batch over all processes.
    """

    def __init__(self, size: int, batch_images: int, seed: int, weights: torch.Tensor | None = None):
        self.size, self.batch_images, self.seed, self.epoch = size, batch_images, seed, 0
        self.weights = weights

    def __len__(self) -> int:
        return math.ceil(self.size / self.batch_images) * self.batch_images

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        if self.weights is None:
            order = torch.randperm(self.size, generator=generator).tolist()
        else:
            order = torch.multinomial(self.weights, self.size, replacement=True, generator=generator).tolist()
        for position in range(len(self)):
            yield self.epoch, order[position % self.size], position < self.size


def resample_filter(processor) -> int:
    """Pillow's number of the filter with which the processor resizes, for training crops of the same look."""
    if hasattr(processor, "data_config"):
        return int(Image.Resampling[processor.data_config["interpolation"].upper()])
    return int(getattr(processor, "resample", Image.Resampling.BICUBIC) or 0)
