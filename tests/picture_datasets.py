"""Small training and evaluation datasets on pictures, for the tests of data loading."""

import datasets
import torch

from imgcls.config.model_options import AugmentOptions
from imgcls.dataloading.augmentation import PLANS, make_augmentation_plan
from imgcls.dataloading.crops import CropSpec
from imgcls.dataloading.image_datasets import TrainingDataset
from imgcls.dataloading.processor_spec import ProcessorSpec
from imgcls.models import input_size, model_config, source
from imgcls.storage.pixel_cache import PixelCache

CACHE_PX, PX = 72, 48
KEYS = [(epoch, index, index != 2) for epoch in (0, 3) for index in (4, 2, 0, 5, 1, 3)]
POLICY = make_augmentation_plan(AugmentOptions(augment="light", flip="both", trivialaugment=True))
KINDS = {
    "heavy": {},
    "light, nearest": {"plan": PLANS["light"], "name": "efficientnet-b0"},
    "bilinear": {"plan": PLANS["standard"], "name": "vit-base"},
    "padded": {"padded": True},
    "policy": {"plan": POLICY},
    "not cropped": {"plan": PLANS["none"]},
}


def load_processor(name, px=None, aspect=None):
    """A checkpoint's image processor with another input size and aspect."""
    config, processor = model_config.load_config(source.resolve_model(name))
    if px:
        processor = input_size.with_input_size(config, processor, px)
    return input_size.with_aspect(config, processor, aspect) if aspect else processor


def rows_of(images):
    """Rows of alternating labels. images: paths, or dicts of path and bytes."""
    images = [{"path": image, "bytes": None} if isinstance(image, str) else image for image in images]
    return datasets.Dataset.from_dict({"image": images, "label": [i % 2 for i in range(len(images))]})


def open_cache(folder):
    return PixelCache(folder, 10**9) if folder else PixelCache()


def training_dataset(
    rows,
    folder=None,
    *,
    name="resnet-18",
    plan=PLANS["heavy"],
    padded=False,
    cache_px=CACHE_PX,
    cache_keys=None,
    seed=5,
):
    """A TrainingDataset whose pixel cache is in `folder`; None: it caches nothing."""
    processor = load_processor(name, 64)
    crop = CropSpec(PX, ProcessorSpec(processor).resample, padded, cache_px)
    return TrainingDataset(rows, processor, plan, crop, seed, cache_keys=cache_keys, cache=open_cache(folder))


def assert_samples_equal(samples, others):
    for sample, other in zip(samples, others, strict=True):
        assert sample.keys() == other.keys()
        for name, value in sample.items():
            is_equal = torch.equal(value, other[name]) if torch.is_tensor(value) else value == other[name]
            assert is_equal, name
