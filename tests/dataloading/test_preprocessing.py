"""Evaluation pixels against the image processors themselves; their steps as plain values, and the faster ways."""

import numpy as np
import pytest
import timm
import tiny
import torch
from drawings import photo
from picture_datasets import load_processor
from PIL import Image
from transformers import AutoImageProcessor, BitImageProcessor

from imgcls.dataloading import preprocessing
from imgcls.dataloading.preprocessing import evaluation_pixels
from imgcls.dataloading.processor_spec import ProcessorSpec
from imgcls.models import classifier, source

CLASSES = ["a", "b"]


def reference(name, folder, px):
    """Image -> pixels at another size, changed as in each library's documentation, without our code."""
    if name == "mobilenetv3-small":
        settings = timm.data.resolve_data_config(
            {}, pretrained_cfg=AutoImageProcessor.from_pretrained(folder).data_config
        )
        if px:
            settings["input_size"] = (3, px, px)
        return timm.data.create_transform(**settings)
    edge = {"shortest_edge": px} if name.startswith("resnet") else {"height": px, "width": px}
    processor = AutoImageProcessor.from_pretrained(folder, **({"size": edge} if px else {}))
    return lambda image: processor(images=image, return_tensors="pt")["pixel_values"][0]


@pytest.mark.parametrize("px", [None, 160, 384])
def test_evaluation_pixels_are_the_processors(checkpoint, px, tmp_path):
    name, folder = checkpoint
    processor = classifier.build_classifier(source.resolve_model(str(folder)), CLASSES, image_px=px).processor
    expected = reference(name, folder, px)
    worst = 0.0
    for i, size in enumerate([(640, 480), (384, 512), (50, 80), (700, 100), (px or 224, px or 224)]):
        file = tmp_path / f"{i}.png"
        photo(*size, seed=i).save(file)
        ours = evaluation_pixels(str(file), processor)
        theirs = expected(Image.open(file).convert("RGB"))
        assert ours.shape == theirs.shape == (3, px or 224, px or 224)
        worst = max(worst, (ours - theirs).abs().max().item())
    print(f"{name:<18} {px or 'own'!s:<4} largest difference {worst:.1e}")
    assert worst <= 1e-6


@pytest.mark.parametrize("name", ["vit-base", "vit-small-msn", "resnet-18", "efficientnet-b0", "mobilenetv3-small"])
@pytest.mark.parametrize("px", [96, 224, 400])
def test_preprocessing_steps_give_the_processors_values(name, px):
    aspects = [None, "crop", "squash"] if name == "efficientnet-b0" else [None, "crop", "squash", "pad"]
    for aspect in aspects:  # EfficientNet's processor cannot pad
        spec = ProcessorSpec(load_processor(name, px, aspect))
        for picture in (photo(330, 250, 1), photo(250, 331, 2)):
            steps = preprocessing.preprocessing_steps(spec, picture)
            assert steps["levels_missed"] < 0.4, aspect
            assert ("as measured" in steps["in_words"]) == (name == "efficientnet-b0")
            if aspect is not None:
                words = ("center crop" in steps["in_words"], "padded" in steps["in_words"])
                assert words == (aspect == "crop", aspect == "pad")
            difference = preprocessing.fast_preprocess(spec)(picture) - spec.pixel_values(picture)
            levels = difference.abs().mean((1, 2)).numpy() * np.array(steps["std"]) * 255
            assert levels.max() < 0.4, aspect
            assert (levels.max() == 0) or aspect != "pad", aspect  # the processor itself


@pytest.mark.parametrize("name", ["vit-base", "resnet-18", "mobilenetv3-small"])
def test_fast_preprocess_does_not_call_the_processor(name, monkeypatch):
    processor = load_processor(name)
    preprocess = preprocessing.fast_preprocess(ProcessorSpec(processor))
    monkeypatch.setattr(type(processor), "__call__", None)
    assert preprocess(photo(330, 250, 1)).shape == (3, 224, 224)


def test_preprocessing_steps_of_a_non_square_output_are_the_processors_own():
    size = {"size": {"shortest_edge": 256}, "crop_size": {"height": 192, "width": 224}}
    spec, picture = ProcessorSpec(BitImageProcessor(**size)), photo(330, 250, 1)
    pixels = preprocessing.fast_preprocess(spec)(picture)
    assert pixels.shape == (3, 192, 224)
    assert torch.equal(pixels, spec.pixel_values(picture))
    assert "resize" not in preprocessing.preprocessing_steps(spec, picture)


def test_preprocessing_steps_name_a_processor_that_they_cannot_express(resnet):
    class Mirrored(type(AutoImageProcessor.from_pretrained(resnet))):
        def __call__(self, images, **options):
            return super().__call__(images=images.transpose(Image.Transpose.FLIP_LEFT_RIGHT), **options)

    spec, picture = ProcessorSpec(Mirrored.from_pretrained(resnet)), photo(300, 200, 0)
    assert torch.equal(preprocessing.fast_preprocess(spec)(picture), spec.pixel_values(picture))
    steps = preprocessing.preprocessing_steps(spec, picture)
    assert "no simpler steps equal it" in steps["in_words"]
    assert "resize" not in steps
    assert steps["mean"] == pytest.approx(tiny.MEAN)
