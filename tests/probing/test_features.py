"""Features of a frozen backbone: computed once, kept under all they depend on; the input that a probe likes best."""

import numpy as np
import pytest
import torch
from drawings import photo
from PIL import Image

from imgcls.config.data_options import DataOptions
from imgcls.data import dataset
from imgcls.data.location import resolve_location
from imgcls.data.splits import make_splits
from imgcls.dataloading import feature_dataset
from imgcls.dataloading.crops import CropSpec
from imgcls.dataloading.image_datasets import EvaluationDataset, TrainingDataset
from imgcls.dataloading.processor_spec import ProcessorSpec
from imgcls.models import classifier, inference, source
from imgcls.models.input_size import InputFormat
from imgcls.probing import backbone, features, input_choice


def splits_of(folder):
    return make_splits(dataset.open_images(resolve_location(str(folder))), {}, DataOptions(), seed=0)


@pytest.fixture
def extractor(resnet, shapes):
    return features.FeatureExtractor(
        source.resolve_model(str(resnet)), splits_of(shapes), device=torch.device("cpu"), batch=8
    )


def test_features_are_what_the_head_is_given(extractor):
    built = extractor.build(image_px=64)
    found = extractor.features(built, "validation")
    assert found.shape == (len(extractor.splits.validation.paths), classifier.head_of(built.network).in_features)
    view = EvaluationDataset(extractor.splits.validation.rows, built.processor)
    logits = inference.compute_outputs(
        inference.logits_function(built.network), view, batch=3, device=torch.device("cpu")
    )
    head = classifier.head_of(built.network)
    again = found @ head.weight.detach().numpy().T + head.bias.detach().numpy()
    np.testing.assert_allclose(again, logits, atol=1e-4)


def test_they_are_computed_once_and_anew_for_another_input(extractor, monkeypatch):
    calls = []
    compute = features.FeatureExtractor._compute
    monkeypatch.setattr(
        features.FeatureExtractor, "_compute", lambda self, *given: calls.append(1) or compute(self, *given)
    )
    first = extractor.features(extractor.build(image_px=96), "train")
    assert np.array_equal(extractor.features(extractor.build(image_px=96), "train"), first)
    assert len(calls) == 1
    extractor.features(extractor.build(image_px=96, aspect="squash"), "train")
    extractor.features(extractor.build(image_px=64), "train")
    extractor.features(extractor.build(image_px=96), "train", at=[0, 1])
    assert len(calls) == 4


def wide_folders(root, telling):
    """Wide pictures whose colour tells the class: at the left edge, which a central crop cuts off, or in the middle."""
    rng = np.random.default_rng(0)
    for c, colour in enumerate([(220, 40, 40), (40, 220, 40)]):
        (root / f"class {c}").mkdir(parents=True)
        for i in range(24):
            pixels = rng.integers(90, 160, (60, 180, 3)).astype(np.uint8)
            pixels[:, slice(0, 50) if telling == "edge" else slice(60, 120)] = colour
            Image.fromarray(pixels).save(root / f"class {c}" / f"{i}.png")
    return root


@pytest.mark.parametrize(("telling", "aspect"), [("edge", "squash"), ("middle", None)])
def test_the_whole_photo_is_taken_where_the_edge_tells(resnet, tmp_path, telling, aspect):
    splits = splits_of(wide_folders(tmp_path / "data", telling))
    extractor = features.FeatureExtractor(
        source.resolve_model(str(resnet)), splits, device=torch.device("cpu"), batch=8
    )
    chosen = input_choice.choose_input(extractor, 64, None, balanced=False, seed=0)
    assert chosen.image_px == 64
    assert chosen.aspect == aspect or aspect is None


def test_what_is_fixed_is_not_tried(extractor, monkeypatch):
    monkeypatch.setattr(features.linear_probe, "fit_probe", lambda *a, **k: pytest.fail("nothing is open"))
    assert input_choice.choose_input(extractor, 64, "whole", balanced=False, seed=0) == InputFormat(64, "whole")


def test_views_differ_and_are_the_same_again(extractor):
    built = extractor.build(image_px=64)
    plain, one, two = (extractor.features(built, "train", [0, 1, 2], view=view, seed=5) for view in range(3))
    assert plain.shape == one.shape
    assert not np.array_equal(plain, one)
    assert not np.array_equal(one, two)
    rows = extractor.splits.train.rows.select([0, 1, 2])
    crop = CropSpec(built.image_px, ProcessorSpec(built.processor).resample)
    training = TrainingDataset(rows, built.processor, features.VIEWS, crop, 5)
    np.testing.assert_array_equal(
        extractor._compute(built, feature_dataset.AugmentedImageDataset(training, 2), False), two
    )


class Timed(torch.nn.Module):
    """A network whose passes take set times, and give other features in bf16."""

    def __init__(self, seconds, error=0.0):
        super().__init__()
        self.seconds, self.error, self.now, self.passes = seconds, error, 0.0, 0
        self.classifier = torch.nn.Linear(3, 2)

    def clock(self):
        return self.now

    def forward(self, pixel_values):
        lower = torch.is_autocast_enabled("cpu")
        self.passes += 1
        self.now += self.seconds[lower] + 10 * (self.passes <= 2)  # sets up first
        return self.classifier(torch.ones(len(pixel_values), 3) * (1 + self.error * lower))


@pytest.mark.parametrize(
    ("seconds", "error", "gain"),
    [
        ((0.2, 0.1), 0.01, 2.0),
        ((0.2, 0.19), 0.01, 0.0),
        ((0.1, 0.2), 0.01, 0.0),
        ((0.2, 0.1), 0.2, 0.0),
        ((30.0, 10.0), 0.0, 3.0),
    ],
)
def test_bf16_is_taken_where_it_is_faster_and_the_same(monkeypatch, seconds, error, gain):
    network = Timed(seconds, error)
    monkeypatch.setattr(backbone.time, "perf_counter", network.clock)
    monkeypatch.setattr(backbone.classifier, "head_of", lambda network: network.classifier)
    threads = torch.get_num_threads()
    assert backbone.bf16_gain(network, torch.zeros(8, 3, 4, 4)) == pytest.approx(gain)
    assert network.passes <= 6
    assert torch.get_num_threads() == threads
    assert not network.classifier._forward_pre_hooks


def test_a_precision_is_tried_once_and_kept_apart(extractor, monkeypatch):
    monkeypatch.setattr(features, "WORTH_TRYING", 1)
    monkeypatch.setattr(features.cpu, "has_bf16", lambda: False)
    exact = extractor.features(extractor.build(image_px=64), "train")
    tried = []
    monkeypatch.setattr(features.cpu, "has_bf16", lambda: True)
    monkeypatch.setattr(features, "bf16_gain", lambda network, pixels: tried.append(pixels.shape) or 2.0)
    lower = extractor.features(extractor.build(image_px=64), "train")
    assert not np.array_equal(lower, exact)
    np.testing.assert_allclose(lower, exact, rtol=0.2, atol=0.05 * np.abs(exact).max())
    again = extractor.features(extractor.build(image_px=64), "train")
    assert np.array_equal(again, lower)
    assert tried == [(8, 3, 64, 64)]
    monkeypatch.setattr(features, "WORTH_TRYING", 10**6)  # as for fewer images
    assert np.array_equal(extractor.features(extractor.build(image_px=64), "train"), exact)


def test_photos_that_are_seen_once_are_decoded_small_for_training_alone(resnet, tmp_path):
    for i in range(24):
        (tmp_path / "data" / f"class {i % 2}").mkdir(parents=True, exist_ok=True)
        photo(700, 500, i).save(tmp_path / "data" / f"class {i % 2}" / f"{i}.jpg")
    splits = splits_of(tmp_path / "data")
    where = {"device": torch.device("cpu"), "batch": 8}
    plain, quick = (
        features.FeatureExtractor(source.resolve_model(str(resnet)), splits, is_fast=f, **where) for f in (False, True)
    )
    found = [e.features(e.build(image_px=64), split) for e in (plain, quick) for split in ("train", "validation")]
    assert np.array_equal(found[1], found[3])  # what is judged by is exact
    assert not np.array_equal(found[0], found[2])
    np.testing.assert_allclose(found[0], found[2], atol=0.1 * np.abs(found[0]).max())
