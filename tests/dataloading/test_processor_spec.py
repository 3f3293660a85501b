"""What ProcessorSpec measures, and the level table, by which uint8 replaces a processor's floats without loss."""

import numpy as np
import pytest
import torch
from drawings import photo
from picture_datasets import load_processor, open_cache, rows_of
from PIL import Image
from transformers import BitImageProcessor, ViTImageProcessor

from imgcls.dataloading.image_datasets import EvaluationDataset
from imgcls.dataloading.preprocessing import evaluation_pixels
from imgcls.dataloading.processor_spec import ProcessorSpec
from imgcls.models.registry import CHECKPOINTS

FILTERS = {"efficientnet-b0": Image.Resampling.NEAREST, "mobilenetv3-small": Image.Resampling.BICUBIC}


@pytest.fixture(scope="module")
def noisy():
    """Photos of all levels, wide, high, smaller than any input, and with black and white next to each other."""
    images = []
    for seed, size in enumerate([(320, 240), (200, 330), (30, 41)]):
        grain = np.random.default_rng(seed).normal(0, 60, (size[1], size[0], 3))
        images.append(Image.fromarray((np.asarray(photo(*size, seed)) + grain).clip(0, 255).astype(np.uint8)))
    hard = np.random.default_rng(9).integers(0, 2, (90, 120, 3), np.uint8) * 255
    return [*images, Image.fromarray(hard)]


def save(images, folder):
    files = [str(folder / f"{i}.png") for i in range(len(images))]
    for file, image in zip(files, images, strict=True):
        image.save(file)
    return files


@pytest.mark.parametrize("aspect", ["crop", "squash", "pad"])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_processor_spec_measures_what_was_set(name, aspect):
    if (name, aspect) == ("efficientnet-b0", "pad"):
        pytest.skip("its processor cannot pad")
    spec = ProcessorSpec(load_processor(name, 96, aspect))
    assert (spec.image_px, spec.aspect) == (96, aspect)
    default = Image.Resampling.BICUBIC if name.startswith("resnet") else Image.Resampling.BILINEAR
    assert spec.resample == FILTERS.get(name, default)
    resized_px = 96 / 0.875 if aspect == "crop" else 96
    assert spec.decode_px == pytest.approx(1.25 * resized_px, abs=2)


def test_processor_spec_normalisation_is_not_image_mean_and_image_std():
    processor = load_processor("efficientnet-b0", 64)
    spec = ProcessorSpec(processor)
    std = 1 / (255 * spec.scale.flatten())
    assert std.tolist() == pytest.approx([0.229, 0.224, 0.225], abs=1e-4)
    assert std.tolist() != pytest.approx(processor.image_std, abs=0.1)


@pytest.mark.parametrize("px", [None, 384])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_to_uint8_restores_the_processors_values_exactly(name, px, noisy):
    spec, levels_seen = ProcessorSpec(load_processor(name, px)), set()
    for picture in noisy:
        pixels = spec.pixel_values(picture)
        levels = spec.level_table.to_uint8(pixels)
        assert levels.dtype == torch.uint8
        assert levels.shape == pixels.shape == (3, spec.image_px, spec.image_px)
        assert torch.equal(spec.level_table.to_float(levels), pixels)
        levels_seen |= set(levels.unique().tolist())
    assert levels_seen == set(range(256))


@pytest.mark.parametrize("name", ["vit-base", "resnet-18", "efficientnet-b0", "mobilenetv3-small"])
def test_level_table_has_the_values_of_plain_pictures(name):
    spec = ProcessorSpec(load_processor(name))
    values = spec.level_table.values
    for colour in [(0, 1, 2), (255, 128, 15), (16, 239, 240)]:
        pixels = spec.pixel_values(Image.new("RGB", (spec.image_px, spec.image_px), colour))
        for channel, level in enumerate(colour):
            assert (pixels[channel] == values[channel, level]).all()
    assert torch.equal(values[:, 0], spec.black)
    assert torch.equal(values[:, 255], spec.white)


def test_to_uint8_is_none_for_values_between_and_beyond_levels(noisy):
    spec = ProcessorSpec(load_processor("resnet-18", 64))
    pixels = spec.pixel_values(noisy[0])
    assert spec.level_table.to_uint8(pixels) is not None
    for change in (1e-6, 0.003, 9.0, -9.0, float("nan")):
        other = pixels.clone()
        other[1, 20, 30] += change
        assert spec.level_table.to_uint8(other) is None, change


@pytest.mark.parametrize(
    "processor",
    [
        ViTImageProcessor(size={"shortest_edge": 64}),
        BitImageProcessor(size={"shortest_edge": 80}, crop_size={"height": 40, "width": 64}),
    ],
    ids=["not cropped", "cropped"],
)
def test_level_table_of_a_non_square_output_is_exact(processor, folder, tmp_path):
    files = save([photo(*size, seed=1) for size in [(96, 64), (97, 64), (64, 90)]], tmp_path)
    for _ in range(2):
        dataset = EvaluationDataset(rows_of(files), processor, cache=open_cache(folder))
        for i, file in enumerate(files):
            assert torch.equal(dataset[i]["pixel_values"], evaluation_pixels(file, processor))


@pytest.mark.parametrize("name", ["vit-base", "resnet-18", "mobilenetv3-small"])
def test_pack_keeps_the_floats_of_a_padding(name, noisy, folder, tmp_path):
    processor = load_processor(name, 96, "pad")
    files = save([*noisy, noisy[0].crop((0, 0, 200, 200))], tmp_path)  # the last needs no padding
    expected = [evaluation_pixels(file, processor) for file in files]
    has_floats = [len(ProcessorSpec(processor).level_table.pack(pixels)) == 12 for pixels in expected]
    is_timm = name == "mobilenetv3-small"  # it pads before it normalises, with a level
    assert has_floats == ([False] * 5 if is_timm else [True] * 4 + [False])
    for _ in range(2):
        dataset = EvaluationDataset(rows_of(files), processor, cache=open_cache(folder))
        for _ in range(2):
            samples = dataset.__getitems__(range(5))
            for sample, pixels in zip(samples, expected, strict=True):
                assert sample["pixel_values"].dtype == torch.float32
                assert torch.equal(sample["pixel_values"], pixels)
