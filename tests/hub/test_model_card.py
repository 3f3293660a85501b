"""The model card of a run: it says what the run measured, and no name can break it."""

import json
import re
import shutil

import pytest
from huggingface_hub import ModelCard
from loopback_cards import card_problems
from markdown_it import MarkdownIt

from imgcls.deploy import onnx_export
from imgcls.errors import RunError
from imgcls.evaluation import calibration
from imgcls.evaluation.loaded_model import LoadedModel
from imgcls.hub import model_card
from imgcls.hub.run_profile import RunProfile
from imgcls.storage import run_folder

# Sections of the Hub's guidebook for model cards, and what they are called here.
SECTIONS = {
    "Model details": "Model details",
    "Uses": "Uses",
    "Bias, risks and limitations": "Bias, risks and limitations",
    "How to get started": "How to use it",
    "Training details, data": "Training data",
    "Training details, procedure": "Training procedure",
    "Evaluation": "Evaluation",
    "Environmental impact": "Environmental impact",
    "Technical specifications": "Technical specifications",
    "Glossary": "Glossary",
    "Citation, authors, contact": "Citation, authors, contact",
}
FILES = [f"figures/{name}.png" for name in run_folder.FIGURE_NAMES]


@pytest.fixture(scope="module")
def written(shared):
    return model_card.stamped(model_card.render_model_card(RunProfile(shared, "tester/odd-names", "mit", FILES)))


@pytest.fixture
def changed(shared, tmp_path):
    """A copy of the run with another metrics.json (a function of the old one) and other files."""

    def make(change=lambda metrics: None, **files):
        run = run_folder.RunFolder(shutil.copytree(shared.path, tmp_path / "run"))
        metrics = run.read_json(run_folder.METRICS)
        change(metrics)
        run.write_json(run_folder.METRICS, metrics)
        for name, content in files.items():
            run.write_json(f"{name}.json", content)
        return run

    return make


def test_metadata_say_what_was_measured(shared, written):
    data, test = ModelCard(written).data, shared.read_json(run_folder.METRICS)["test"]
    assert (data.license, data.pipeline_tag, data.library_name) == ("mit", "image-classification", "transformers")
    assert data.base_model is None  # a folder on this disk
    found = {result.metric_type: result.metric_value for result in data.eval_results}
    assert found["accuracy"] == round(test["accuracy"], 4)
    assert found["f1"] == round(test["macro_f1"], 4)
    assert {result.dataset_split for result in data.eval_results} == {"test"}
    assert card_problems(written, "model") == ([], [])


def test_every_section_of_the_guidebook_is_there(written):
    heads = [line[3:] for line in written.splitlines() if line.startswith("## ")]
    assert [name for name in SECTIONS.values() if name not in heads] == []


def test_every_class_is_a_row_with_its_interval(shared, written):
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(ModelCard(written).text)
    rows, cells = [], []
    for token in tokens:
        if token.type == "inline":
            cells.append("".join(t.content for t in token.children))
        elif token.type == "tr_open":
            cells = []
        elif token.type == "tr_close":
            rows.append(cells)
    test = shared.read_json(run_folder.METRICS)["test"]
    for name, of in test["per_class"].items():
        (row,) = [r for r in rows if r[0] == name and " to " in r[3]]
        assert row[1:3] == [f"{of['support']}", f"{of['recall']:.3f}"]
        low, high = map(float, row[3].split(" to "))
        assert low <= of["recall"] <= high
        assert [r for r in rows if r[0] == name and len(r) == 4]  # its images by split


def test_names_make_no_html_and_no_links(written):
    html = MarkdownIt("gfm-like", {"linkify": False, "html": True}).render(ModelCard(written).text)
    assert "<b>x" not in html
    assert 'href="u"' not in html
    assert "&lt;b&gt;x" in html


def test_the_command_is_there_without_the_token_and_pictures_only_as_files(shared, written):
    assert "python scripts/train.py --data" in written
    assert "hf_secret" not in written
    assert "](figures/confusion_matrix.png)" in written
    assert "](figures/" not in model_card.render_model_card(RunProfile(shared, "tester/x"))


def test_where_it_comes_from(changed):
    def public(metrics):
        metrics["sources"] = {"base_model": "microsoft/resnet-18", "dataset": "someone/photos", "demo": False,
                              "earlier": ["someone/older", None]}  # fmt: skip

    text = model_card.render_model_card(RunProfile(changed(public), "tester/x", "mit"))
    data = ModelCard(text).data
    assert (data.base_model, data.base_model_relation, data.datasets) == (
        "microsoft/resnet-18", "finetune", ["someone/photos", "someone/older"],
    )  # fmt: skip
    assert "](https://huggingface.co/datasets/someone/photos)" in text
    assert card_problems(text, "model") == ([], [])


def test_limits_are_told_in_words_and_without_names_of_files(changed):
    problem = {"code": "dark", "severity": "warning", "files": ["a/1.jpg"], "message": "1 image dark: a/1.jpg",
               "advice": "Look."}  # fmt: skip
    cured = problem | {"code": "leak", "message": "2 images in two splits: a/2.jpg"}
    classes = problem | {"files": ["a/"], "message": "classes with few images: a 3"}
    finding = {"code": "x", "severity": "warning", "evidence": "it overfits", "advice": "Stop"}
    text = model_card.render_model_card(
        RunProfile(changed(check=[problem, classes, cured], diagnosis=[finding]), "tester/x")
    )
    limits = text.split("## Bias")[1].split("## Training data")[0]
    assert "it overfits. Stop" in limits
    assert "1 image dark." in limits
    assert "a/1.jpg" not in text
    assert "two splits" not in limits  # training kept them on one side
    assert "classes with few images: a 3" in limits


def test_runs_of_every_kind(changed):
    def old(metrics):
        for name in ("made", "sources", "selection"):
            metrics.pop(name, None)

    run = changed(old)
    (run / run_folder.CALIBRATION).unlink()
    text = model_card.render_model_card(RunProfile(run, "name-alone"))
    assert "It was not measured." in text
    assert "not recorded" in text

    metrics = run.read_json(run_folder.METRICS)
    metrics |= {"test": None, "cross_validation": metrics["validation"] | {"folds": 5}, "initialised": "random"}
    metrics["validation"]["loss"] = None  # a model that diverged
    run.write_json(run_folder.METRICS, metrics)
    text = model_card.render_model_card(RunProfile(run, "tester/x"))
    assert "cross-validation" in text
    assert "Trained from random weights" in text
    assert json.dumps(None) not in text


def test_an_edited_card_is_known(written):
    assert not model_card.is_edited(written)
    assert model_card.is_edited(written.replace("Sorts photos", "Sorts my photos"))
    assert model_card.is_edited(written + "more")
    assert model_card.is_edited("# My own card\n")


def test_a_folder_without_a_finished_run(tmp_path):
    with pytest.raises(RunError, match="Expected a finished run"):
        RunProfile(run_folder.RunFolder(tmp_path), "tester/x")


def test_what_it_tells_to_type_works(shared, shapes, tmp_path):
    run = run_folder.RunFolder(shutil.copytree(shared.path, tmp_path / "run"))
    onnx_export.export_model(LoadedModel.load(run.path, device="cpu"))
    text = model_card.render_model_card(RunProfile(run, "tester/x", files=["export/model.onnx"]))
    photo = next(shapes.glob("*/*.jpg"))
    file = 'hf_hub_download("tester/x", "export/model.onnx")'
    there = {file: f'"{run / "export/model.onnx"}"', "photo.jpg": str(photo), "tester/x": str(run.path)}
    said = []
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        for name, place in there.items():
            code = code.replace(name, place)
        names = {}
        exec(code, names)
        said.append(names)
    answer = {one["label"]: one["score"] for one in said[0]["classify"](str(photo))}
    p = calibration.probabilities(said[1]["logits"])[0]
    assert answer == pytest.approx(dict(zip(RunProfile(run, "x").classes, p, strict=True)), abs=1e-4)
