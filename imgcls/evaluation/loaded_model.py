"""A trained classifier in memory: its network, image processor, classes and calibration."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from PIL import Image
from transformers import BaseImageProcessor, PreTrainedModel

from imgcls.data import decoding
from imgcls.dataloading.processor_spec import ProcessorSpec
from imgcls.errors import OptionError
from imgcls.evaluation import calibration, run_calibration
from imgcls.models import classifier_head, inference, source
from imgcls.models.feature_extraction import extract_features
from imgcls.storage.run_folder import RunFolder
from imgcls.system import hardware

# A path, an encoded image, a decoded image, or a uint8 array (H, W, 3).
ImageSource = str | Path | bytes | Image.Image | np.ndarray
Images = ImageSource | Iterable[ImageSource]

ALWAYS_UNSURE = 1.01  # above every confidence


@dataclass(eq=False)
class LoadedModel:
    """A classifier ready for inference.

    name: run folder, model folder or Hub id. folder: where its files are. min_precision: target precision of
    `threshold`.
    """

    name: str
    folder: Path
    network: PreTrainedModel
    processor: BaseImageProcessor
    batch_size: int = 16
    min_precision: float = calibration.MIN_PRECISION

    @classmethod
    def load(
        cls,
        name: str | Path,
        *,
        device: str | torch.device | None = None,
        batch_size: int = 16,
        min_precision: float = calibration.MIN_PRECISION,
    ) -> Self:
        """Load a run folder, a model folder, or a model of the Hub.

        device: where to compute; None takes the accelerator if there is one. batch_size: images per batch.
        min_precision: fraction of predictions at and above `threshold` that should be correct. Raises ModelError when
        there is no trained classifier, or when it cannot be downloaded.
        """
        hardware.configure_process()
        folder = source.fetch_trained_model(str(name))
        network, processor = inference.load_model(folder, torch.device(device or hardware.accelerator() or "cpu"))
        return cls(str(name), folder, network, processor, batch_size, min_precision)

    @property
    def classes(self) -> list[str]:
        """Class names in label order."""
        names = cast(dict[int, str], self.network.config.id2label)
        return [names[i] for i in range(len(names))]

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return next(self.network.parameters()).device

    @functools.cached_property
    def spec(self) -> ProcessorSpec:
        """What the image processor does to an image."""
        return ProcessorSpec(self.processor)

    @property
    def run(self) -> RunFolder:
        """The folder for results about this model: its run folder, or runs/OWNER-NAME for a model of the Hub."""
        return RunFolder(source.resolve_model(self.name).folder or f"runs/{self.name.replace('/', '-')}")

    @functools.cached_property
    def calibration(self) -> dict | None:
        """Temperature and threshold, see `run_calibration.load_calibration`; None when they are not known."""
        return run_calibration.load_calibration(RunFolder(self.folder), self.min_precision)

    @property
    def temperature(self) -> float:
        """Divisor of the logits that calibrates confidence; 1.0 for a model without calibration."""
        return 1.0 if self.calibration is None else self.calibration["temperature"]

    @property
    def threshold(self) -> float | None:
        """Confidence below which a prediction is uncertain; None for a model without calibration.

        Above 1 when no confidence reaches `min_precision`: then all predictions are uncertain.
        """
        if self.calibration is None:
            return None
        confidence = self.calibration["threshold"]["confidence"]
        return ALWAYS_UNSURE if confidence is None else confidence

    def pixels(self, image: ImageSource) -> torch.Tensor:
        """Network input for one image, float (3, px, px), as `transformers.pipeline` computes it. Raises ImageError."""
        if isinstance(image, np.ndarray):
            image = Image.fromarray(image)
        rgb = decoding.to_rgb(image) if isinstance(image, Image.Image) else decoding.load_rgb(image)
        return self.spec.pixel_values(rgb)

    def logits(self, images: Images) -> np.ndarray:
        """Logits, float32 (N, K). Raises ImageError for an image that cannot be read."""
        return self._outputs(inference.logits_function(self.network), images, len(self.classes))

    def probabilities(self, images: Images) -> np.ndarray:
        """Calibrated probabilities, float64 (N, K). Raises ImageError for an image that cannot be read."""
        return calibration.probabilities(self.logits(images), self.temperature)

    def features(self, images: Images) -> np.ndarray:
        """Feature vectors, float32 (N, D): the input of the head, the last linear layer.

        Raises ImageError for an image that cannot be read, ModelError for a network with another kind of head.
        """
        dimensions = classifier_head.head_of(self.network).in_features
        with extract_features(self.network) as compute:
            return self._outputs(lambda pixels: compute(pixels, False), images, dimensions)

    def stream_logits(self, items: Iterable, pixels: Callable[[Any], torch.Tensor]) -> Iterator[inference.OutputBatch]:
        """Logits of any number of items, batch by batch; see `inference.stream_outputs`."""
        forward = inference.logits_function(self.network)
        return inference.stream_outputs(forward, items, pixels, batch=self.batch_size, device=self.device)

    def _outputs(
        self,
        forward: inference.Forward,
        images: Images,
        dimensions: int,
    ) -> np.ndarray:
        outputs = [np.zeros((0, dimensions), np.float32)]
        items = list_images(images)
        for _, batch, errors in inference.stream_outputs(
            forward, items, self.pixels, batch=self.batch_size, device=self.device
        ):
            for error in errors.values():
                raise error
            outputs.append(batch)
        return np.concatenate(outputs)


def is_one_image(images: Images) -> bool:
    """Whether this is a single image and not several."""
    if isinstance(images, np.ndarray):
        return images.ndim == 3
    return isinstance(images, (str, Path, bytes, Image.Image))


def list_images(images: Images) -> list[ImageSource]:
    """One image or several as a list. Raises OptionError for arrays that are not uint8 (H, W, 3)."""
    items = cast(list[ImageSource], [images] if is_one_image(images) else list(cast(Iterable, images)))
    for item in items:
        if isinstance(item, np.ndarray) and not (item.dtype == np.uint8 and item.ndim == 3 and item.shape[2] == 3):
            raise OptionError(
                f"Expected image arrays of uint8 (height, width, 3), RGB, got {item.dtype} {item.shape}. Convert them."
            )
    return items
