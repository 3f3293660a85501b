"""The model card of a run: it holds what the run measured, and no name can break it."""

import json
import re
import shutil

import pytest
from commands import TESTS
from drawings import photo
from huggingface_hub import ModelCard
from loopback_cards import card_problems
from markdown_it import MarkdownIt

from imgcls.deploy import onnx_export
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
    return model_card.stamp(model_card.render_model_card(RunProfile(shared, "tester/odd-names", "mit", FILES)))


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


def test_card_metadata_holds_what_was_measured(shared, written):
    data, test = ModelCard(written).data, shared.read_json(run_folder.METRICS)["test"]
    assert (data.license, data.pipeline_tag, data.library_name) == ("mit", "image-classification", "transformers")
    assert data.base_model is None  # a folder on this disk
    values = {result.metric_type: result.metric_value for result in data.eval_results}
    assert values["accuracy"] == round(test["accuracy"], 4)
    assert values["f1"] == round(test["macro_f1"], 4)
    assert {result.dataset_split for result in data.eval_results} == {"test"}
    assert card_problems(written, "model") == ([], [])


def test_render_model_card_has_every_section_of_the_guidebook(written):
    heads = [line[3:] for line in written.splitlines() if line.startswith("## ")]
    assert [name for name in SECTIONS.values() if name not in heads] == []


def test_render_model_card_has_a_row_with_interval_for_every_class(shared, written):
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
    for name, results in test["per_class"].items():
        (row,) = [r for r in rows if r[0] == name and " to " in r[3]]
        assert row[1:3] == [f"{results['support']}", f"{results['recall']:.3f}"]
        low, high = map(float, row[3].split(" to "))
        assert low <= results["recall"] <= high
        assert [r for r in rows if r[0] == name and len(r) == 4]  # its images by split


def test_render_model_card_keeps_names_as_text(written):
    html = MarkdownIt("gfm-like", {"linkify": False, "html": True}).render(ModelCard(written).text)
    assert "<b>x" not in html
    assert 'href="u"' not in html
    assert "&lt;b&gt;x" in html


def test_render_model_card_shows_the_command_without_token_and_only_pushed_figures(shared, written):
    assert "python scripts/train.py --data" in written
    assert "hf_secret" not in written
    assert "](figures/confusion_matrix.png)" in written
    assert "](figures/" not in model_card.render_model_card(RunProfile(shared, "tester/x"))


def marked(value, mark):
    """A JSON value with `mark` at the end of every string in it."""
    if isinstance(value, dict):
        return {key: marked(entry, mark) for key, entry in value.items()}
    if isinstance(value, list):
        return [marked(entry, mark) for entry in value]
    return value + mark if isinstance(value, str) else value


def marked_run(shared, folder, mark):
    """A copy of the run with `mark` at the end of every text that a user, a file or a machine could have named."""
    run = run_folder.RunFolder(shutil.copytree(shared.path, folder))
    metrics = run.read_json(run_folder.METRICS)
    metrics["sources"] = {"base_model": "a/b", "dataset": "a/c", "earlier": ["a/d", None]}
    metrics["selection"] = {"kept": "average"}
    for name in ("classes", "made", "sources", "selection"):
        metrics[name] = marked(metrics[name], mark)
    for split in ("validation", "test"):
        per_class = metrics[split]["per_class"]
        metrics[split]["per_class"] = {name + mark: row for name, row in per_class.items()}
    run.write_json(run_folder.METRICS, metrics)
    finding = {"code": "x", "severity": "warning", "evidence": f"e{mark}", "advice": f"a{mark}"}
    issue = {"code": "dark", "severity": "warning", "files": ["a/"], "message": f"m{mark}", "advice": "Look."}
    run.write_json(run_folder.DIAGNOSIS, [finding])
    run.write_json(run_folder.CHECK, [issue])
    run.write_options({name: marked(value, mark) for name, value in run.read_options().items()})
    rows = [(row["path"], row["label"] + mark, row["split"], "") for row in run.read_csv(run_folder.SPLIT)]
    run.write_csv(run_folder.SPLIT, run_folder.SPLIT_COLUMNS, rows)
    return run


def structure(run, mark):
    """Kinds of tokens of a run's card, other than text: links, headings, cells, tags ..."""
    card = model_card.render_model_card(RunProfile(run, "tester/x", f"mit{mark}"))
    blocks = MarkdownIt("gfm-like", {"linkify": False, "html": True}).parse(ModelCard(card).text)
    kinds = [token.type for block in blocks for token in (block, *(block.children or ()))]
    return [kind for kind in kinds if kind not in ("text", "text_special")]


@pytest.mark.parametrize("mark", [" <b>x</b>", " *x*", " [x](u)", " ![x](u)", " | x", " `x`", " ```", "\n# x\n"])
def test_render_model_card_escapes_every_text_of_a_run(shared, tmp_path, mark):
    plain, marks = marked_run(shared, tmp_path / "plain", ""), marked_run(shared, tmp_path / "marked", mark)
    assert structure(marks, mark) == structure(plain, "")


def test_render_model_card_names_public_sources(changed):
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


def test_render_model_card_lists_limits_without_names_of_files(changed):
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


def test_render_model_card_of_old_cross_validated_and_diverged_runs(changed):
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


def test_is_edited_recognizes_changes(written):
    assert not model_card.is_edited(written)
    assert model_card.is_edited(written.replace("Classifies photos", "Classifies my photos"))
    assert model_card.is_edited(written + "more")
    assert model_card.is_edited("# My own card\n")


def test_render_model_card_shows_code_that_works(shared, shapes, tmp_path):
    run = run_folder.RunFolder(shutil.copytree(shared.path, tmp_path / "run"))
    onnx_export.export_model(LoadedModel.load(run.path, device="cpu"))
    text = model_card.render_model_card(RunProfile(run, "tester/x", files=["export/model.onnx"]))
    photo = next(shapes.glob("*/*.jpg"))
    file = 'hf_hub_download("tester/x", "export/model.onnx")'
    local = {file: f'"{run / "export/model.onnx"}"', "photo.jpg": str(photo), "tester/x": str(run.path)}
    namespaces = []
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        for name, place in local.items():
            code = code.replace(name, place)
        names = {}
        exec(code, names)
        namespaces.append(names)
    answer = {one["label"]: one["score"] for one in namespaces[0]["classify"](str(photo))}
    p = calibration.probabilities(namespaces[1]["logits"])[0]
    assert answer == pytest.approx(dict(zip(RunProfile(run, "x").classes, p, strict=True)), abs=1e-4)


@pytest.mark.parametrize(
    ("reasons", "unreadable", "words"),
    [
        ([], [], "No photos were skipped."),
        (["cut short"], [], "Skipped: 1 unreadable."),
        (
            ["the same file under several classes: a, b"] * 2 + ["cut short", "the same file as a/3.jpg"],
            [],
            "Skipped: 2 photos filed under two classes, 1 unreadable, 1 duplicate.",
        ),
        (
            ["the same file as a/john_smith.jpg"] * 2
            + ["patient Erika withdrew", "a copy of b/6.jpg, by which it would be judged", "cut short"],
            ["a/4.jpg"],
            "Skipped: 2 duplicates, 1 excluded by the author, 1 copy of a photo in another split, 1 unreadable.",
        ),
    ],
)
def test_render_model_card_counts_skipped_photos_without_names(changed, reasons, unreadable, words):
    check = [{"code": "unreadable", "severity": "error", "files": unreadable, "message": "1 file: x", "advice": "."}]
    run = changed(check=check)
    run.write_csv(
        run_folder.EXCLUDE, run_folder.EXCLUDE_COLUMNS, [(f"a/{i}.jpg", why) for i, why in enumerate(reasons)]
    )
    run.write_options(run.read_options() | {"exclude": "mine.csv" if unreadable else None})
    card = model_card.render_model_card(RunProfile(run, "tester/x"))
    assert words in card
    assert "john" not in card
    assert "Erika" not in card


def test_skipped_has_the_reasons_of_the_audit(launch, tmp_path):
    names = ("train/a/1", "train/a/2", "train/a/3", "train/a/4", "train/b/1", "test/a/1", "test/b/1")
    for seed, name in enumerate(names):
        file = tmp_path / f"data/{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        photo(80, 60, seed).save(file)
    data = tmp_path / "data"
    shutil.copy(data / "train/a/1.png", data / "train/b/conflict.png")
    shutil.copy(data / "train/a/2.png", data / "train/a/duplicate.png")
    shutil.copy(data / "train/a/3.png", data / "test/a/leak.png")
    done = launch("--data", data, "--output_dir", tmp_path / "check", script=TESTS.parent / "scripts/check.py")
    assert done.returncode == 3, done.stderr
    reasons = [row["reason"] for row in run_folder.RunFolder(tmp_path / "check").read_csv(run_folder.EXCLUDE)]
    for start in model_card.SKIPPED:
        assert any(reason.startswith(start) for reason in reasons), (start, reasons)
