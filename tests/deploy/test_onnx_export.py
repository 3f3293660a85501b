"""scripts/export.py: an ONNX file that answers as the model does, what its record says, and what it refuses."""

import contextlib
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny
import torch
from commands import TESTS, main_of
from drawings import photo
from huggingface_hub import constants
from torch import nn
from transformers import pipeline

from imgcls.config import parser
from imgcls.dataloading import preprocessing
from imgcls.deploy import onnx_export, onnx_model
from imgcls.errors import ModelError
from imgcls.evaluation.loaded_model import LoadedModel
from imgcls.models import classifier, source
from imgcls.storage import run_claim, run_folder

EXPORT = TESTS.parent / "scripts" / "export.py"
CLASSES = ["a", "b", "ç"]


@pytest.fixture
def run_export(monkeypatch, capsys):
    main = main_of(EXPORT)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [str(EXPORT), *map(str, arguments)])
        capsys.readouterr()  # of what came before
        code = parser.run_main(main)
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


def saved(name, folder):
    """A model folder with three classes, without the run that made it."""
    torch.manual_seed(0)
    built = classifier.build_classifier(source.resolve_model(str(tiny.write(name, folder / "backbone"))), CLASSES)
    built.network.save_pretrained(folder / "run")
    if not hasattr(built.processor, "data_config"):
        built.processor.save_pretrained(folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder with its export; what a test exports there the next one overwrites."""
    found = saved("resnet-18", tmp_path_factory.mktemp("model"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_model, "to_onnx_program", lambda *given: graphs.append(program(*given)) or graphs[0])
        onnx_export.export_model(LoadedModel.load(found, device="cpu"))
    return found


graphs, program = [], onnx_model.to_onnx_program


@pytest.fixture
def same_graph(monkeypatch, folder):
    """The graph of `folder` is the one that was made before, which takes seconds."""
    monkeypatch.setattr(onnx_model, "to_onnx_program", lambda *given: graphs[0])


def files(folder):
    return {str(p.relative_to(folder)): p.stat().st_ino for p in folder.rglob("*")}


IN_DEFAULT_RUN = ("resnet-18", "vit-base", "mobilenetv3-small")


@pytest.mark.parametrize(
    "name",
    [n if n in IN_DEFAULT_RUN else pytest.param(n, marks=pytest.mark.nightly) for n in tiny.HUB_IDS],
)
def test_export_of_all_architectures_predicts_as_pipeline(run_export, tmp_path, name):
    folder = saved(name, tmp_path)
    code, out, err = run_export("--run", folder)
    assert (code, err) == (parser.EXIT_OK, "")
    record = json.loads((folder / "export" / "export.json").read_text())
    assert f"{record['images']} generated images" in out
    assert record["labels_equal"] == 1
    assert record["max_probability_difference"] < 1e-5
    assert min(record["latency_ms"].values()) > 0
    assert record["megabytes"] == (folder / "export" / "model.onnx").stat().st_size / 1e6
    steps = record["preprocessing"]
    assert steps["levels_missed"] < 0.5
    kinds = {node.op_type for node in onnx.load(folder / "export" / "model.onnx").graph.node}
    assert "AveragePool" not in kinds  # which older runtimes compute otherwise
    session = onnxruntime.InferenceSession(folder / "export" / "model.onnx")
    assert [session.get_inputs()[0].shape, session.get_outputs()[0].shape] == [
        ["batch", *record["input"]["shape"][1:]],
        ["batch", 3],
    ]
    told = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
    assert told == {"classes": CLASSES, "image_px": 224, "temperature": 1.0, "preprocessing": steps}
    photos = [photo(300 + 40 * i, 260, i) for i in range(3)]
    logits = session.run(None, {"pixel_values": np.stack([preprocessing.apply_steps(steps, p) for p in photos])})[0]
    expected = pipeline("image-classification", model=str(folder), top_k=3)(photos)
    for row, answers in zip(torch.tensor(logits).softmax(1).tolist(), expected, strict=True):
        assert dict(zip(CLASSES, row, strict=True)) == pytest.approx(
            {answer["label"]: answer["score"] for answer in answers}, abs=2e-3
        )


def test_export_of_a_run_is_verified_on_its_validation_images(run_export, train, shapes, resnet, tmp_path, capsys):
    folder = tmp_path / "run"
    assert train("--model", resnet, "--data", shapes, "--epochs", 1, "--output_dir", folder).returncode == 0
    run = run_folder.RunFolder(folder)
    held_out = sum(row["split"] == "validation" for row in run.read_csv(run_folder.PREDICTIONS))
    before = set(files(folder))
    code, out, err = run_export("--run", folder)
    assert (code, err) == (parser.EXIT_OK, "")
    assert f"{held_out} validation images" in out
    record = json.loads((folder / "export/export.json").read_text())
    assert (record["images"], record["source"]) == (held_out, "validation images")
    assert record["temperature"] == run.read_json(run_folder.CALIBRATION)["temperature"]
    assert record["classes"] == run.read_json(run_folder.METRICS)["classes"]
    content = [(folder / "export" / name).read_bytes() for name in ("export.json", "model.onnx")]
    assert not [
        place
        for place in (tmp_path, shapes, resnet, TESTS, "site-packages")
        if str(place).encode() in b"".join(content)
    ]

    assert set(files(folder)) - before == {"export", "export/export.json", "export/model.onnx"}

    run.write_options({**run.read_options(), "data": str(tmp_path / "moved")})
    assert onnx_export._validation_pixels(LoadedModel.load(folder)) == []
    assert "using generated images" in capsys.readouterr().err
    run_claim.remove_run(run)
    assert not (folder / "export").exists()


def corrupt(file):
    """Let the last bias of an ONNX file be another."""
    content = onnx.load(file)
    name = content.graph.node[-1].input[-1]
    (bias,) = [value for value in content.graph.initializer if value.name == name]
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias)[::-1] + np.float32([0, 3, 9]), name))
    onnx.save(content, file)


def test_export_that_predicts_differently_is_refused(run_export, monkeypatch, folder, same_graph):
    def save(graph, file, told):
        written(graph, file, told)
        corrupt(file)

    written = onnx_model.save_onnx
    before = files(folder)
    monkeypatch.setattr(onnx_model, "save_onnx", save)
    code, out, err = run_export("--run", folder)
    assert (code, out) == (parser.EXIT_ERROR, "")
    assert "another class" in err
    assert err.count("\n") == 1
    assert files(folder) == before
    assert "export/export.json" in before


def test_atomic_folder_leaves_nothing_after_an_error(tmp_path):
    with contextlib.suppress(ModelError), onnx_export._atomic_folder(tmp_path / "run" / "export") as new:
        (new / "model.onnx").write_bytes(b"half")
        raise ModelError
    assert not list(tmp_path.iterdir())


def test_parity_proof_allows_ties_and_rounding_only():
    pixels = np.arange(3, dtype=np.float32)
    asked = []

    def says(*rows):
        def answer(given):
            asked.append(len(given))
            return np.array(rows, np.float32)[given.astype(int)]

        return answer

    plain = [0, 1, 4], [2, 0, 0], [0, 3, 3.0001]
    proof = onnx_export.parity_proof(says(*plain), says(plain[0], [2, 0, 0.0004], [0, 3.0001, 3]), pixels)
    assert asked == [1, 2, 5] * 2
    assert proof["labels_equal"] == 1 - 2 / 8  # a draw decided otherwise, asked twice
    assert proof["max_logit_difference"] == pytest.approx(4e-4, rel=0.01)
    assert 0 < proof["max_probability_difference"] < 1e-3
    for other in ([2, 0, 0.02], [0, 2, 0], [2, 0, np.nan]):
        with pytest.raises(ModelError, match="predict as torch does"):
            onnx_export.parity_proof(says(*plain), says(plain[0], other, plain[2]), pixels)
    with pytest.raises(ModelError, match="diverged"):
        onnx_export.parity_proof(says(plain[0], [np.nan] * 3, plain[2]), says(*plain), pixels)


def test_export_errors_are_one_line(run_export, monkeypatch, folder, tmp_path):
    (tmp_path / "taken/export").mkdir(parents=True)
    (tmp_path / "taken/export/notes.txt").write_text("mine")
    for file in folder.glob("*.*"):
        (tmp_path / "taken" / file.name).symlink_to(file)
    for arguments, words in (
        (["--run", tmp_path], "config.json"),
        ([], "--run"),
        (["--run", tmp_path / "taken"], "Move them elsewhere"),
    ):
        code, out, err = run_export(*arguments)
        assert (code, out) == (parser.EXIT_ERROR, "")
        assert words in err
        assert err.count("\n") == 1
    assert (tmp_path / "taken/export/notes.txt").read_text() == "mine"
    for name in ("onnx", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
    code, _, err = run_export("--run", folder)
    assert code == parser.EXIT_ERROR
    assert err.endswith("pip install onnx onnxruntime\n")


def test_export_puts_large_weights_into_a_second_file(run_export, monkeypatch, folder, same_graph, capsys):
    monkeypatch.setattr(onnx_model, "MAX_FILE_BYTES", 1000)
    before = files(folder)
    code, out, _ = run_export("--run", folder)
    assert code == parser.EXIT_OK
    assert "weights in model.onnx.data" in out
    assert {p.name for p in (folder / "export").iterdir()} == {"model.onnx", "model.onnx.data", "export.json"}
    assert files(folder)["export/model.onnx"] != before["export/model.onnx"]
    example = out.split("\n\n")[1]
    assert len(example.splitlines()) == 4
    exec(example, {"pixels": np.zeros((2, 3, 224, 224), np.float32)})
    assert capsys.readouterr().out.strip() in CLASSES


def test_export_of_a_hub_model_makes_a_run_folder(run_export, monkeypatch, folder, same_graph, tmp_path):
    cached = Path(constants.HF_HUB_CACHE, "models--someone--tiny")
    shutil.copytree(folder, cached / "snapshots/abc", ignore=shutil.ignore_patterns("export"))
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text("abc")
    monkeypatch.chdir(tmp_path)
    assert run_export("--run", "someone/tiny")[0] == parser.EXIT_OK
    assert {p.name for p in (tmp_path / "runs/someone-tiny/export").iterdir()} == {"model.onnx", "export.json"}


def test_to_onnx_program_refuses_data_dependent_networks():
    class Branching(nn.Module):
        def forward(self, pixel_values):
            rows = pixel_values.mean((2, 3))
            return SimpleNamespace(logits=rows if rows.sum().item() > 0 else rows * np.random.rand())

    with pytest.raises(ModelError, match="got Branching: "):
        onnx_model.to_onnx_program(Branching(), (3, 8, 8))
