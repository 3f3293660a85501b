"""The Python API does what the scripts do."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import imgcls
from imgcls.errors import FolderError, OptionError


@pytest.fixture(scope="module")
def model(shapes, resnet, tmp_path_factory):
    folder = tmp_path_factory.mktemp("api") / "run"
    return imgcls.train(shapes, resnet, epochs=1, tune="full", output_dir=folder, report_to="none")


def test_train_returns_the_trained_model(model, shapes):
    photo = next(shapes.glob("*/*"))
    prediction = model.predict(photo, top_k=2)
    assert prediction.label in model.classes
    assert prediction.top[0] == (prediction.label, prediction.confidence)
    assert [p.label for p in model.predict([photo, Image.open(photo)])] == [prediction.label] * 2
    assert model.predict(np.asarray(Image.open(photo).convert("RGB"))).label == prediction.label


def test_train_loads_a_finished_run(model, shapes, resnet):
    again = imgcls.train(shapes, resnet, epochs=1, tune="full", output_dir=model.name, report_to="none")
    assert again.classes == model.classes


def test_trained_model_load_and_evaluate(model):
    loaded = imgcls.TrainedModel.load(model.name)
    accuracy = loaded.evaluate()["test"]["accuracy"]
    assert loaded.evaluate(name="again")["test"]["accuracy"] == accuracy


def test_check_returns_the_issues(shapes, tmp_path):
    result = imgcls.check(shapes, output_dir=tmp_path / "check")
    assert result.page.is_file()
    assert str(result) == result.text
    assert result.has_problems == any(issue.severity != "info" for issue in result.issues)


@pytest.mark.parametrize(
    ("options", "words"), [({"epoch": 1}, "epoch"), ({"lr": -1}, "--lr"), ({"check": "x"}, "quick")]
)
def test_train_raises_for_wrong_options(shapes, options, words):
    with pytest.raises(OptionError, match=words):
        imgcls.train(shapes, **options)


def test_train_raises_for_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(FolderError, match="nowhere"):
        imgcls.train(tmp_path / "nowhere")


def test_import_alone_is_cheap():
    code = "import sys, imgcls; print('torch' in sys.modules, imgcls.__version__, 'train' in dir(imgcls))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", imgcls.__version__, "True"]
