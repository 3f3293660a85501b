"""A trained model in memory: what it computes, and how its confidence is calibrated."""

import numpy as np
import pytest
import tiny
import torch
from drawings import photo
from transformers import pipeline

from imgcls.errors import ImageError, OptionError
from imgcls.evaluation.loaded_model import LoadedModel, is_one_image, list_images
from imgcls.models import classifier, classifier_head, source
from imgcls.storage import run_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder with three classes."""
    root = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    built = classifier.build_classifier(source.resolve_model(str(tiny.write("resnet-18", root / "b"))), list("abc"))
    built.network.save_pretrained(root / "run")
    built.processor.save_pretrained(root / "run")
    return root / "run"


@pytest.fixture(scope="module")
def model(folder):
    return LoadedModel.load(folder, device="cpu", batch_size=2)


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        photo(90 + 10 * i, 70, i).save(path)
    return paths


def test_load_has_the_classes_and_the_folder(model, folder):
    assert (model.classes, model.folder, model.device.type) == (["a", "b", "c"], folder, "cpu")
    assert model.run.path == folder
    assert not model.network.training


def test_logits_are_the_same_for_paths_images_and_arrays(model, files):
    images = [photo(90 + 10 * i, 70, i) for i in range(3)]
    expected = model.logits(files)
    assert (expected.shape, expected.dtype) == ((3, 3), np.float32)
    assert np.array_equal(model.logits(images), expected)
    assert np.array_equal(model.logits([np.asarray(image) for image in images]), expected)
    assert np.array_equal(model.logits(np.asarray(images[0])), model.logits(files[0]))
    assert model.logits([]).shape == (0, 3)


def test_probabilities_equal_those_of_pipeline(model, folder, files):
    scores = pipeline("image-classification", model=str(folder), top_k=3)(str(files[0]))
    assert dict(zip("abc", model.probabilities(files[0])[0], strict=True)) == pytest.approx(
        {score["label"]: score["score"] for score in scores}, abs=1e-5
    )


def test_features_are_the_input_of_the_head(model, files):
    features = model.features(files)
    head = classifier_head.head_of(model.network)
    logits = features @ head.weight.detach().numpy().T + head.bias.detach().numpy()
    assert np.allclose(logits, model.logits(files), atol=1e-5)
    assert not [module for module in model.network.modules() if module._forward_pre_hooks]


def test_logits_of_an_unreadable_file_raise_image_error(model, tmp_path, files):
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(ImageError, match="empty"):
        model.logits([*files, tmp_path / "empty.jpg"])


def test_threshold_and_temperature_follow_the_calibration(folder):
    model = LoadedModel.load(folder, device="cpu")
    assert (model.calibration, model.temperature, model.threshold) == (None, 1.0, None)
    saved = {"temperature": 1.5, "images": 40, "threshold": {"min_precision": 0.95, "confidence": 0.8}}
    model.calibration = saved
    assert (model.temperature, model.threshold) == (1.5, 0.8)
    model.calibration = saved | {"threshold": {"min_precision": 0.95, "confidence": None}}
    assert model.threshold > 1


def test_calibration_is_read_from_the_folder(folder, tmp_path):
    model = LoadedModel.load(folder, device="cpu")
    model.folder = tmp_path
    saved = {"temperature": 1.5, "images": 40, "threshold": {"min_precision": 0.95, "confidence": 0.8}}
    run_folder.RunFolder(tmp_path).write_json(run_folder.CALIBRATION, saved)
    assert model.calibration == saved


def test_list_images_refuses_arrays_that_are_not_rgb_bytes():
    assert is_one_image(np.zeros((4, 4, 3), np.uint8))
    assert len(list_images(np.zeros((2, 4, 4, 3), np.uint8))) == 2
    for array in (np.zeros((4, 4, 3)), np.zeros((3, 4, 4), np.uint8), np.zeros((4, 4), np.uint8)):
        with pytest.raises(OptionError, match="uint8"):
            list_images(array)
