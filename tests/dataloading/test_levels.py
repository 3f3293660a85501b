"""uint8 that says all of what an image processor gives, for every checkpoint; floats where it would not."""

import datasets
import numpy as np
import pytest
import torch
from drawings import photo
from PIL import Image
from transformers import ViTImageProcessor

from imgcls.dataloading.image_datasets import EvaluationDataset
from imgcls.dataloading.preprocessing import evaluation_pixels
from imgcls.dataloading.processor_spec import ProcessorSpec
from imgcls.models import input_size, model_config, source
from imgcls.models.registry import CHECKPOINTS
from imgcls.storage.pixel_cache import PixelCache


def processor_of(name, px=None, aspect=None):
    """A checkpoint's image processor and the side of what it gives."""
    config, found = model_config.load_config(source.resolve_model(name))
    if px:
        found = input_size.with_input_size(config, found, px)
    if aspect:
        found = input_size.with_aspect(config, found, aspect)
    return found, input_size.input_side(config, found)


@pytest.fixture(scope="module")
def noisy():
    """Photos of all levels, wide, high, smaller than any input, and with black and white next to each other."""
    shown = []
    for seed, size in enumerate([(320, 240), (200, 330), (30, 41)]):
        grain = np.random.default_rng(seed).normal(0, 60, (size[1], size[0], 3))
        shown.append(Image.fromarray((np.asarray(photo(*size, seed)) + grain).clip(0, 255).astype(np.uint8)))
    hard = np.random.default_rng(9).integers(0, 2, (90, 120, 3), np.uint8) * 255
    return [*shown, Image.fromarray(hard)]


@pytest.mark.parametrize("px", [None, 384])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_levels_say_exactly_what_the_processor_gives(name, px, noisy):
    processor, side = processor_of(name, px)
    levels = ProcessorSpec(processor).level_table
    seen = set()
    for picture in noisy:
        given = processor(images=picture, return_tensors="pt")["pixel_values"][0]
        kept = levels.to_uint8(given)
        assert kept.dtype == torch.uint8
        assert kept.shape == given.shape == (3, side, side)
        assert torch.equal(levels.to_float(kept), given)
        seen |= set(kept.unique().tolist())
    assert seen == set(range(256))


@pytest.mark.parametrize("name", ["vit-base", "resnet-18", "efficientnet-b0", "mobilenetv3-small"])
def test_each_level_is_what_a_plain_picture_of_it_becomes(name):
    processor, side = processor_of(name)
    levels = ProcessorSpec(processor).level_table
    for colour in [(0, 1, 2), (255, 128, 15), (16, 239, 240)]:
        given = processor(images=Image.new("RGB", (side, side), colour), return_tensors="pt")["pixel_values"][0]
        for channel, level in enumerate(colour):
            assert (given[channel] == levels.values[channel, level]).all()


def test_values_between_levels_and_beyond_are_not_taken_for_levels(noisy):
    processor, _ = processor_of("resnet-18", 64)
    levels = ProcessorSpec(processor).level_table
    given = processor(images=noisy[0], return_tensors="pt")["pixel_values"][0]
    assert levels.to_uint8(given) is not None
    for change in (1e-6, 0.003, 9.0, -9.0, float("nan")):
        other = given.clone()
        other[1, 20, 30] += change
        assert levels.to_uint8(other) is None, change


def test_what_a_processor_gives_need_not_be_square(tmp_path):
    processor = ViTImageProcessor(size={"shortest_edge": 64})
    files = [str(tmp_path / f"{i}.png") for i in range(3)]
    for file, size in zip(files, [(96, 64), (97, 64), (64, 90)], strict=True):
        photo(*size, seed=1).save(file)
    rows = datasets.Dataset.from_dict({"image": [{"path": f, "bytes": None} for f in files], "label": [0] * 3})
    for _ in range(2):
        view = EvaluationDataset(rows, processor, cache=PixelCache(tmp_path / "pixels", 10**9))
        for i, file in enumerate(files):
            assert torch.equal(view[i]["pixel_values"], evaluation_pixels(file, processor))


@pytest.mark.parametrize("name", ["vit-base", "resnet-18", "mobilenetv3-small"])
def test_photos_with_a_padding_are_exact_too(name, noisy, tmp_path, monkeypatch):
    processor, _ = processor_of(name, 96, "pad")
    files = [str(tmp_path / f"{i}.png") for i in range(5)]
    pictures = [*noisy, noisy[0].crop((0, 0, 200, 200))]  # the last needs no padding
    for file, picture in zip(files, pictures, strict=True):
        picture.save(file)
    rows = datasets.Dataset.from_dict({"image": [{"path": f, "bytes": None} for f in files], "label": [0] * 5})
    expected = [evaluation_pixels(file, processor) for file in files]
    levels = ProcessorSpec(processor).level_table
    has_floats = [levels.to_uint8(pixels) is None for pixels in expected]
    is_timm = name == "mobilenetv3-small"  # it pads before it normalises, with a level
    assert has_floats == ([False] * 5 if is_timm else [True] * 4 + [False])
    for _ in range(2):
        view = EvaluationDataset(rows, processor, cache=PixelCache(tmp_path / "pixels", 10**9))
        for _ in range(2):
            samples = view.__getitems__(range(5))
            for sample, pixels in zip(samples, expected, strict=True):
                assert sample["pixel_values"].dtype == torch.float32
                assert torch.equal(sample["pixel_values"], pixels)
