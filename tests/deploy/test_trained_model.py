"""The Python API of a trained model: the predictions of predict.py, the metrics of validate.py, an export."""

import csv
import json
import sys

import numpy as np
import pytest
from commands import TESTS, TRAIN, main_of
from PIL import Image

from imgcls.config import parser
from imgcls.deploy.trained_model import TrainedModel
from imgcls.errors import OptionError

PREDICT = TESTS.parent / "scripts" / "predict.py"


@pytest.fixture(scope="module")
def run(tmp_path_factory, shapes, resnet):
    """A finished run."""
    folder = tmp_path_factory.mktemp("api") / "run"
    arguments = ("--model", resnet, "--data", shapes, "--epochs", 2, "--val_fraction", 0.3, "--output_dir", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(TRAIN), *map(str, arguments)])
        assert parser.run_main(main_of(TRAIN)) == parser.EXIT_OK
    return folder


@pytest.fixture(scope="module")
def model(run):
    return TrainedModel.load(run)


def test_predict_equals_predict_py(model, run, shapes, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(PREDICT), "--run", str(run), str(shapes), "--out", str(tmp_path / "a.csv"),
                                      "--top_k", "2"])  # fmt: skip
    assert main_of(PREDICT)() == parser.EXIT_OK
    with open(tmp_path / "a.csv", newline="", encoding="utf-8") as text:
        rows = list(csv.DictReader(text))
    predictions = model.predict(shapes, top_k=2)
    assert len(predictions) == len(rows) == 36
    for prediction, row in zip(predictions, rows, strict=True):
        assert (prediction.path, prediction.label, prediction.error) == (row["path"], row["predicted"], None)
        assert int(prediction.uncertain) == int(row["unsure"])
        assert [f"{p:.6f}" for _, p in prediction.top] == [
            f"{float(row[k]):.6f}" for k in ("confidence", "confidence_2")
        ]
        assert prediction.top[0] == (prediction.label, prediction.confidence)
        assert prediction.top[1][0] == row["predicted_2"]


def test_predict_takes_one_image_or_several(model, shapes, tmp_path):
    path = next(shapes.rglob("*.jpg"))
    one = model.predict(path)
    with Image.open(path) as image:
        in_memory = model.predict(image)
        array = model.predict(np.asarray(image.convert("RGB")))
    assert (one.label, one.confidence) == (in_memory.label, in_memory.confidence) == (array.label, array.confidence)
    assert (one.path, in_memory.path) == (str(path), None)
    (tmp_path / "empty.jpg").touch()
    several = model.predict([str(path), tmp_path / "empty.jpg"])
    assert [prediction.error for prediction in several] == [None, "the file is empty"]
    assert (several[1].label, several[1].confidence, several[1].uncertain, several[1].top) == (None, None, None, [])
    assert model.predict([]) == []
    with pytest.raises(OptionError, match="top_k"):
        model.predict(path, top_k=0)


def test_evaluate_returns_the_metrics_of_validate_py(model, run, shapes):
    metrics = model.evaluate()
    trained = json.loads((run / "metrics.json").read_text())["validation"]
    assert metrics["test"]["confusion_matrix"] == trained["confusion_matrix"]
    assert json.loads((run / "validation/validation/metrics.json").read_text())["test"] == metrics["test"]
    assert model.evaluate(shapes, split="all", name="all")["test"]["images"] == 36
    with pytest.raises(OptionError, match="Nearest: split"):
        model.evaluate(splits="all")


def test_export_writes_into_the_folder(model, tmp_path):
    pytest.importorskip("onnxscript")
    record = model.export(tmp_path / "onnx")
    assert record["labels_equal"] == 1
    assert {path.name for path in (tmp_path / "onnx").iterdir()} == {"model.onnx", "export.json"}
