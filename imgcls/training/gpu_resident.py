"""Training images in GPU memory: the CPU then only sends indices and random parameters, and no worker reads images."""

from __future__ import annotations

import logging
import time

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from imgcls.dataloading.augmentation import PARAM_COLUMNS, DeviceAugmentation
from imgcls.dataloading.gpu_images import GpuCropDataset, GpuImageStore
from imgcls.dataloading.image_datasets import TrainingDataset, collate
from imgcls.dataloading.sampler import EpochSampler
from imgcls.storage import atomic_file
from imgcls.system import hardware
from imgcls.training.checkpointing import with_own_generator

log = logging.getLogger(__name__)

MEMORY_FRACTION = 0.7  # of the free GPU memory that images may take


class GpuResident:
    """A training set that moves into GPU memory once all of its images are in the pixel cache and fit there."""

    def __init__(self, dataset: TrainingDataset, augmentation: DeviceAugmentation):
        self.dataset, self.augmentation = dataset, augmentation
        self.crop_dataset = GpuCropDataset(dataset)
        self.images: GpuImageStore | None = None  # set by `load`
        self.batches: tuple[DataLoader, EpochSampler] | None = None  # of indices and crop boxes; set by `load`

    def fits(self, device: torch.device, reserved_bytes: int) -> bool:
        """Whether all images are cached and fit in the memory that the GPU has left next to `reserved_bytes`."""
        if device.type == "cpu" or not self.crop_dataset.is_possible:
            return False
        free = hardware.free_memory(device) - reserved_bytes
        return self.crop_dataset.required_bytes < MEMORY_FRACTION * free

    def load(self, accelerator: Accelerator, sampler: EpochSampler, batch_size: int, pin_memory: bool) -> None:
        """Copy the images to the GPU, and make the loader of their crop boxes. Raises torch.OutOfMemoryError."""
        started = time.monotonic()
        self.images = self.crop_dataset.load(accelerator.device)
        loader = DataLoader(self.crop_dataset, batch_size, sampler=sampler, collate_fn=collate, pin_memory=pin_memory)
        self.batches = (with_own_generator(accelerator.prepare(loader)), sampler)
        log.info(
            "loaded %d training images onto the GPU (%s) in %.1f s",
            len(self.crop_dataset),
            atomic_file.format_bytes(self.crop_dataset.required_bytes),
            time.monotonic() - started,
        )

    def augment(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Augmented pixels of a training batch, float (B, 3, px, px).

        batch: random "augmentation_params" (B, PARAMS_PER_IMAGE), with "pixel_values", or with the "indices" (B,) and
        crop "boxes" int (B, 4) of images in GPU memory; all but the pixels are removed from it.
        """
        params = batch.pop("augmentation_params")
        if "boxes" not in batch:
            return self.augmentation(batch["pixel_values"], params)
        assert self.images is not None, "load() comes before the batches with boxes"
        indices, boxes = batch.pop("indices"), batch.pop("boxes")
        crops = self.images.crops(indices, boxes, params[:, PARAM_COLUMNS.flips], self.dataset.crop)
        return self.augmentation(crops, params)
