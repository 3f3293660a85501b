"""From a row to pixels, on the host: crop, decode, resize, to uint8; augmentation does the rest on the device.

Training never shows a full-size photo to an image processor (100 ms and more each) and moves only uint8.
Evaluation is the checkpoint's own image processor, exactly. Every random choice is a pure function of
(seed, epoch, index), so it is the same with any number of workers and processes and after any kill.
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, Sampler

from imgcls import images
from imgcls.augmentation import Plan, draw_crop, draw_variation
from imgcls.losses import PADDING_LABEL

if TYPE_CHECKING:
    import datasets  # half a second, which prediction does not need

GRAY = 118  # the mean of ImageNet, with which image processors pad


def read_crop(
    source: str | bytes, rng: random.Random, share: tuple[float, float], px: int, resample: int, padded: bool = False
) -> np.ndarray:
    """A random crop of an image as uint8 (px, px, 3), decoded at the smallest JPEG scale that covers it.

    The box is drawn from the header's size, so neither crop nor result depend on the decoder's scale.
    Nearest-neighbour processors see single pixels, so there the image is decoded in full. padded: of the photo in the
    middle of a gray square.
    """
    with images.open_image(source) as image:
        width, height = images.displayed_size(image)
        side = max(width, height)
        box = draw_crop(rng, side, side, share) if padded else draw_crop(rng, width, height, share)
        scale = min(1.0, max(px / (box[2] - box[0]), px / (box[3] - box[1])))
        at_least = None if resample == Image.Resampling.NEAREST else (width * scale, height * scale)
        pixels = images.to_rgb(image, at_least)
    sx, sy = pixels.width / width, pixels.height / height
    if padded:
        square = Image.new("RGB", (round(side * sx), round(side * sy)), (GRAY,) * 3)
        square.paste(pixels, ((square.width - pixels.width) // 2, (square.height - pixels.height) // 2))
        pixels = square
    scaled_box = (box[0] * sx, box[1] * sy, min(box[2] * sx, pixels.width), min(box[3] * sy, pixels.height))
    return np.asarray(pixels.resize((px, px), Image.Resampling(resample), box=scaled_box))


class TrainingView(Dataset):
    """Rows as training samples; its keys are (epoch, index, counted), as EpochSampler deals them."""

    def __init__(self, rows: datasets.Dataset, processor, plan: Plan, px: int, seed: int, *, padded: bool = False):
        self.padded = padded
        self.rows, self.processor, self.plan, self.px, self.seed = rows, processor, plan, px, seed
        self.resample = resample_filter(processor)

    @property
    def labels(self) -> list[int]:
        """Label of each row, (N,)."""
        return list(self.rows["label"])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: tuple[int, int, bool]) -> dict:
        """{"pixel_values": uint8 (3, px, px), or float when nothing is cropped; "labels": int; "draws": (DRAWS,)}."""
        epoch, index, counted = key
        rng = random.Random(f"{self.seed} {epoch} {index}")  # a text seed is hashed the same on every machine
        row = self.rows[index]
        source = row["image"]["bytes"] or row["image"]["path"]
        if self.plan.crop_share is None:
            pixels = evaluation_pixels(source, self.processor)
        else:
            array = read_crop(source, rng, self.plan.crop_share, self.px, self.resample, self.padded)
            pixels = torch.from_numpy(array.copy()).permute(2, 0, 1)
            if self.plan.policy is not None:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(rng.getrandbits(63))
                    pixels = self.plan.policy(pixels)
        return {
            "pixel_values": pixels,
            "labels": row["label"] if counted else PADDING_LABEL,
            "draws": draw_variation(rng, self.plan),
        }


class EvaluationView(Dataset):
    """Rows as evaluation samples: exactly the values that the checkpoint's image processor gives.

    keep_bytes: pixels of so many bytes are kept in memory, so that a small split is read once and not every epoch.
    """

    def __init__(self, rows: datasets.Dataset, processor, keep_bytes: int = 0):
        self.rows, self.processor, self.room = rows, processor, keep_bytes
        self.kept: dict[int, torch.Tensor] = {}

    @property
    def labels(self) -> list[int]:
        """Label of each row, (N,)."""
        return list(self.rows["label"])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        """{"pixel_values": float (3, px, px), "labels": int}."""
        row = self.rows[index]
        source = row["image"]["bytes"] or row["image"]["path"]
        pixels = self.kept.get(index)
        if pixels is None:
            pixels = evaluation_pixels(source, self.processor)
            if pixels.nbytes <= self.room:
                self.room -= pixels.nbytes
                self.kept[index] = pixels
        return {"pixel_values": pixels, "labels": row["label"]}


def evaluation_pixels(source: str | bytes, processor) -> torch.Tensor:
    """Float (3, px, px) of one image, through the image processor as `pipeline` calls it."""
    return processor(images=images.load_rgb(source), return_tensors="pt")["pixel_values"][0]


def collate(samples: list[dict]) -> dict[str, torch.Tensor]:
    """Samples -> batch tensors: pixel_values (B, 3, H, W), labels (B,), and in training draws (B, DRAWS)."""
    batch = {
        "pixel_values": torch.stack([s["pixel_values"] for s in samples]),
        "labels": torch.tensor([s["labels"] for s in samples]),
    }
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
