"""Features of a frozen backbone: computed once, and cached under all that they depend on."""

import numpy as np
import pytest
import torch
from drawings import photo

from imgcls.config.data_options import DataOptions
from imgcls.data import dataset
from imgcls.data.location import resolve_location
from imgcls.data.splits import make_splits
from imgcls.dataloading import feature_dataset
from imgcls.dataloading.crops import CropSpec
from imgcls.dataloading.image_datasets import EvaluationDataset, TrainingDataset
from imgcls.dataloading.processor_spec import ProcessorSpec
from imgcls.models import classifier_head, inference, source
from imgcls.models.input_size import InputFormat
from imgcls.probing import features


def splits_of(folder):
    return make_splits(dataset.open_images(resolve_location(str(folder))), {}, DataOptions(), seed=0)


@pytest.fixture
def extractor(resnet, shapes):
    return features.FeatureExtractor(source.resolve_model(str(resnet)), splits_of(shapes), torch.device("cpu"), 8)


def test_features_are_the_input_of_the_head(extractor):
    frozen = extractor.backbone(InputFormat(64))
    computed = extractor.features(frozen, "validation")
    assert computed.shape == (
        len(extractor.splits.validation.paths),
        classifier_head.head_of(frozen.network).in_features,
    )
    images = EvaluationDataset(extractor.splits.validation.rows, frozen.processor)
    logits = inference.compute_outputs(
        inference.logits_function(frozen.network), images, batch=3, device=torch.device("cpu")
    )
    head = classifier_head.head_of(frozen.network)
    expected = computed @ head.weight.detach().numpy().T + head.bias.detach().numpy()
    np.testing.assert_allclose(expected, logits, atol=1e-4)


def test_features_are_computed_once_per_input(extractor, monkeypatch):
    calls = []
    compute = features.FeatureExtractor._compute
    monkeypatch.setattr(
        features.FeatureExtractor, "_compute", lambda self, *args: calls.append(1) or compute(self, *args)
    )
    first = extractor.features(extractor.backbone(InputFormat(96)), "train")
    assert np.array_equal(extractor.features(extractor.backbone(InputFormat(96)), "train"), first)
    assert len(calls) == 1
    extractor.features(extractor.backbone(InputFormat(96, "squash")), "train")
    extractor.features(extractor.backbone(InputFormat(64)), "train")
    extractor.features(extractor.backbone(InputFormat(96)), "train", indices=[0, 1])
    assert len(calls) == 4


def test_features_of_crops_differ_and_are_reproducible(extractor):
    frozen = extractor.backbone(InputFormat(64))
    plain, one, two = (extractor.features(frozen, "train", [0, 1, 2], crop=crop, seed=5) for crop in range(3))
    assert plain.shape == one.shape
    assert not np.array_equal(plain, one)
    assert not np.array_equal(one, two)
    rows = extractor.splits.train.rows.select([0, 1, 2])
    crop = CropSpec(frozen.image_px, ProcessorSpec(frozen.processor).resample)
    training = TrainingDataset(rows, frozen.processor, features.CROPS, crop, 5)
    np.testing.assert_array_equal(
        extractor._compute(frozen, feature_dataset.AugmentedImageDataset(training, 2), False), two
    )


def test_features_in_bf16_are_tried_once_and_cached_apart(extractor, monkeypatch):
    monkeypatch.setattr(features, "MIN_IMAGES_FOR_BF16", 1)
    monkeypatch.setattr(features.cpu, "has_bf16", lambda: False)
    exact = extractor.features(extractor.backbone(InputFormat(64)), "train")
    shapes = []
    monkeypatch.setattr(features.cpu, "has_bf16", lambda: True)
    monkeypatch.setattr(features, "bf16_speedup", lambda network, pixels: shapes.append(pixels.shape) or 2.0)
    lower = extractor.features(extractor.backbone(InputFormat(64)), "train")
    assert not np.array_equal(lower, exact)
    np.testing.assert_allclose(lower, exact, rtol=0.2, atol=0.05 * np.abs(exact).max())
    again = extractor.features(extractor.backbone(InputFormat(64)), "train")
    assert np.array_equal(again, lower)
    assert shapes == [(8, 3, 64, 64)]
    monkeypatch.setattr(features, "MIN_IMAGES_FOR_BF16", 10**6)  # as with fewer images
    assert np.array_equal(extractor.features(extractor.backbone(InputFormat(64)), "train"), exact)


def test_features_with_fast_reading_change_the_training_images_alone(resnet, tmp_path):
    for i in range(24):
        (tmp_path / "data" / f"class {i % 2}").mkdir(parents=True, exist_ok=True)
        photo(700, 500, i).save(tmp_path / "data" / f"class {i % 2}" / f"{i}.jpg")
    splits = splits_of(tmp_path / "data")
    train, validation = [], []
    for is_fast in (False, True):
        reading = features.ImageReading(is_fast=is_fast)
        model = source.resolve_model(str(resnet))
        extractor = features.FeatureExtractor(model, splits, torch.device("cpu"), 8, reading)
        frozen = extractor.backbone(InputFormat(64))
        train.append(extractor.features(frozen, "train"))
        validation.append(extractor.features(frozen, "validation"))
    assert np.array_equal(*validation)  # evaluation is exact
    assert not np.array_equal(*train)
    np.testing.assert_allclose(*train, atol=0.1 * np.abs(train[0]).max())
