"""The aspect is chosen by a probe, unless it is fixed."""

import numpy as np
import pytest
import torch
from PIL import Image

from imgcls.config.data_options import DataOptions
from imgcls.data import dataset
from imgcls.data.location import resolve_location
from imgcls.data.splits import make_splits
from imgcls.models import source
from imgcls.models.input_size import InputFormat
from imgcls.probing import features, input_choice


def splits_of(folder):
    return make_splits(dataset.open_images(resolve_location(str(folder))), {}, DataOptions(), seed=0)


@pytest.fixture
def extractor(resnet, shapes):
    return features.FeatureExtractor(source.resolve_model(str(resnet)), splits_of(shapes), torch.device("cpu"), 8)


def wide_folders(root, where):
    """Wide photos whose class is shown by a colour: at the left edge, outside of a center crop, or in the middle."""
    rng = np.random.default_rng(0)
    for c, colour in enumerate([(220, 40, 40), (40, 220, 40)]):
        (root / f"class {c}").mkdir(parents=True)
        for i in range(24):
            pixels = rng.integers(90, 160, (60, 180, 3)).astype(np.uint8)
            pixels[:, slice(0, 50) if where == "edge" else slice(60, 120)] = colour
            Image.fromarray(pixels).save(root / f"class {c}" / f"{i}.png")
    return root


@pytest.mark.parametrize(("where", "aspect"), [("edge", "squash"), ("middle", None)])
def test_choose_input_squashes_where_the_edge_of_photos_matters(resnet, tmp_path, where, aspect):
    splits = splits_of(wide_folders(tmp_path / "data", where))
    extractor = features.FeatureExtractor(source.resolve_model(str(resnet)), splits, torch.device("cpu"), 8)
    chosen = input_choice.choose_input(extractor, 64, None, balanced=False, seed=0)
    assert chosen.image_px == 64
    assert chosen.aspect == aspect or aspect is None


def test_choose_input_does_not_try_what_is_fixed(extractor, monkeypatch):
    monkeypatch.setattr(features.linear_probe, "fit_probe", lambda *a, **k: pytest.fail("nothing is to be chosen"))
    assert input_choice.choose_input(extractor, 64, "whole", balanced=False, seed=0) == InputFormat(64, "whole")
