"""What of a run leaves this machine: all that makes a model whole, and nothing that tells of the machine."""

import contextlib
import json

import numpy as np
import pytest
import tiny
from transformers import pipeline

from imgcls.errors import RunError
from imgcls.hub import publish
from imgcls.storage import run_folder


@pytest.fixture
def run(shared, tmp_path):
    """A copy of the shared run that a test may change, with all that it must not let go."""
    import shutil

    copy = run_folder.RunFolder(shutil.copytree(shared.path, tmp_path / "run"))
    (copy / run_folder.CARD).unlink(missing_ok=True)
    (copy / "checkpoints/checkpoint-1").mkdir(parents=True)
    (copy / "checkpoints/checkpoint-1/optimizer.pt").write_bytes(b"state")
    (copy / "export").mkdir()
    (copy / "export/model.onnx").write_bytes(b"onnx")
    copy.write_json("export/export.json", {"file": "model.onnx"})
    return copy


def staged(run, **options):
    """What is pushed, name -> content."""
    with publish.stage_files(run, "tester/x", **({"license": "mit"} | options)) as files:
        return {name: file.read_bytes() for name, file in files.items()}


ALWAYS = {
    "README.md", "calibration.json", "config.json", "figures/confusion_matrix.png", "figures/coverage.png",
    "figures/curves.png", "figures/reliability.png", "metrics.json", "model.safetensors", "preprocessor_config.json",
}  # fmt: skip


def test_a_whitelist_leaves(run):
    assert set(staged(run)) == ALWAYS
    everything = staged(run, include=["export", "report"])
    assert set(everything) == ALWAYS | {"export/model.onnx", "export/export.json", "report.html"}


def test_nothing_tells_where_things_lie(run, shared):
    secrets = [str(run.path.parent).encode(), str(shared.path.parent).encode(), b"hf_secret"]
    kept = [file.read_bytes() for file in run.path.rglob("*") if file.is_file()]
    assert any(secrets[1] in content for content in kept)  # so that this can fail
    for name, content in staged(run, include=["export", "report"]).items():
        found = [s for s in secrets if s in content]
        assert not found, (name, found)
        assert b"secret_place/" not in content, name  # the last name of a path stays: it is what the data is called


def test_a_run_of_an_earlier_version_that_kept_its_token(run):
    metrics = run.read_json(run_folder.METRICS)
    metrics["made"]["command"] += " --hub-token hf_older --data=/home/somebody/photos"
    run.write_json(run_folder.METRICS, metrics)
    for name in ("README.md", "metrics.json"):
        content = staged(run)[name]
        assert b"hf_older" not in content
        assert b"somebody" not in content
        assert b"--data photos" in content


def test_the_model_goes_as_it_is(run):
    for name in ("config.json", "preprocessor_config.json", "calibration.json", "model.safetensors"):
        assert staged(run)[name] == (run / name).read_bytes()


def test_why_images_were_left_out_names_no_files(run):
    reasons = ["the same file as a/john_smith.jpg", "the same file as a/3.jpg", "patient Erika withdrew"]
    rows = [(f"a/{i}.jpg", why) for i, why in enumerate([*reasons, "a copy of b/6.jpg, by which it would be judged"])]
    run.write_csv(run_folder.EXCLUDE, run_folder.EXCLUDE_COLUMNS, rows)
    card = staged(run)["README.md"].decode()
    assert "Left out: 2 twice there, 1 unreadable or by choice, 1 copied from another split." in card
    assert "john" not in card
    assert "Erika" not in card


def test_only_what_the_export_names_is_of_the_export(run):
    (run / "export/.env").write_text("SECRET=1")
    assert {name for name in staged(run, include=["export"]) if "export" in name} == {
        "export/model.onnx", "export/export.json",
    }  # fmt: skip


def test_what_is_on_the_hub_is_no_path_of_ours(run):
    metrics = run.read_json(run_folder.METRICS)
    metrics["sources"] = {"base_model": "someone/their-model", "dataset": "someone/photos", "demo": False}
    run.write_json(run_folder.METRICS, metrics | {"model": "someone/their-model"})
    options = run.read_options()
    run.write_options(options | {"model": "someone/their-model", "data": "someone/photos"})
    assert not {"someone/their-model", "someone/photos"} & publish.private_paths(run)
    assert b"someone/their-model" in staged(run)["metrics.json"]


def test_images_by_absolute_paths(run):
    rows = [("/mnt/private/patients/1.jpg", "a|b", "train", "")]
    run.write_csv(run_folder.SPLIT, run_folder.SPLIT_COLUMNS, rows)
    assert {"/mnt/private/patients", "/mnt/private"} <= publish.private_paths(run)


def test_images_outside_of_the_folder_of_their_table(run):
    rows = [("../../customer/patients/1.jpg", "a|b", "train", "")]
    run.write_csv(run_folder.SPLIT, run_folder.SPLIT_COLUMNS, rows)
    run.write_text(run_folder.REPORT, "<bdi>../../customer/patients/1.jpg</bdi>")
    assert staged(run, include=["report"])["report.html"] == b"<bdi>patients/1.jpg</bdi>"


def test_an_edited_card_is_pushed_as_it_is(run):
    first = staged(run)["README.md"]
    assert (run / run_folder.CARD).read_bytes() == first
    assert b"tester/x" in first
    with publish.stage_files(run, "other/y", license=None) as files:
        assert b"other/y" in files["README.md"].read_bytes()  # written anew
    (run / run_folder.CARD).write_text("---\nlicense: mit\n---\n\n# Mine\n")
    assert staged(run)["README.md"] == b"---\nlicense: mit\n---\n\n# Mine\n"
    publish.write_model_card(run)
    assert (run / run_folder.CARD).read_text().endswith("# Mine\n")


def test_a_card_edited_before_there_was_a_repository_gets_its_name(run):
    publish.write_model_card(run)
    text = (run / run_folder.CARD).read_text()
    assert 'model="YOUR-NAME/run"' in text
    (run / run_folder.CARD).write_text(text + "\nMy own words.\n")
    card = staged(run)["README.md"].decode()
    assert 'model="tester/x"' in card
    assert card.endswith("My own words.\n")
    assert "YOUR-NAME" not in card


@pytest.mark.parametrize("content", [b"---\nlicense: [mit\n---\n# Mine\n", b"# \xff\xfe\n"])
def test_an_edited_card_that_the_hub_would_refuse(run, content):
    (run / run_folder.CARD).write_bytes(content)
    with pytest.raises(RunError, match="README"):
        publish.check_pushable(run)


def test_what_an_edited_card_does_not_say_is_said(run, caplog):
    class Repo:
        repo_id, url = "tester/x", ""

    (run / run_folder.CARD).write_text("# Mine, of accuracy 0.123\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publish.repository, "upload_files", lambda *arguments: None)
        publish.push_run(run, Repo, again="", license="mit", space="tester/page")
    assert "does not state this run's accuracy" in caplog.text
    assert "--license mit is not in it" in caplog.text
    assert "--space tester/page is not in it" in caplog.text


def test_a_run_folder_that_cannot_be_written_is_pushed_all_the_same(run, monkeypatch, caplog):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_folder.RunFolder, "write_text", full)
    assert b"tester/x" in staged(run)["README.md"]
    assert "not kept" in caplog.text


@pytest.mark.parametrize("name", ["config.json", "metrics.json"])
def test_a_damaged_run_is_no_traceback(run, name):
    (run / name).write_text("{}" if name == "config.json" else '{"train": {}, "classes": []}')
    with pytest.raises(RunError):
        publish.check_pushable(run)


def test_the_command_that_pushes():
    assert publish.push_command(run_folder.RunFolder("a b"), "me/x", True) == (
        "python scripts/push.py --run 'a b' --repo me/x --private"
    )
    assert publish.push_command(run_folder.RunFolder("-run")) == "python scripts/push.py --run=-run"


def test_the_license_is_the_checkpoint_s(run):
    metrics = run.read_json(run_folder.METRICS)
    assert publish.license_of(run) is None
    run.write_json(run_folder.METRICS, metrics | {"sources": {"base_model": "microsoft/resnet-18"}})
    assert publish.license_of(run) == "apache-2.0"


def test_the_license_of_another_checkpoint_is_asked_for_and_not_waited_for(run, monkeypatch, caplog):
    metrics = run.read_json(run_folder.METRICS)
    run.write_json(run_folder.METRICS, metrics | {"sources": {"base_model": "someone/model"}})

    class Info:
        card_data = {"license": "cc-by-4.0"}  # noqa: RUF012

    monkeypatch.setattr(publish, "model_info", lambda name: Info)
    assert publish.license_of(run) == "cc-by-4.0"

    def broken(name):
        raise ConnectionError

    monkeypatch.setattr(publish, "model_info", broken)
    assert publish.license_of(run) is None
    assert "--license" in caplog.text


def test_what_is_missing_is_said(run, tmp_path):
    with pytest.raises(RunError, match="Expected a finished run"):
        publish.check_pushable(run_folder.RunFolder(tmp_path))
    publish.check_pushable(run, ["export", "report"])
    (run / "export/export.json").unlink()
    with pytest.raises(RunError, match=r"scripts/export\.py --run"):
        publish.check_pushable(run, ["export"])
    (run / run_folder.REPORT).unlink()
    with pytest.raises(RunError, match="Leave out --include report"):
        publish.check_pushable(run, ["report"])


@pytest.mark.parametrize("name", ["resnet-18", "vit-base"])
def test_an_adapter_brings_a_card_that_puts_it_on_its_base(train, shapes, tmp_path, name):
    from peft import PeftModel
    from transformers import AutoModelForImageClassification

    checkpoint = tiny.write(name, tmp_path / "checkpoint")
    options = ["--data", shapes, "--model", checkpoint, "--output_dir", tmp_path / "run", "--epochs", 2]
    assert train(*options, "--tune", "lora").returncode == 0
    run = run_folder.RunFolder(tmp_path / "run")
    files = staged(run)
    assert json.loads(files["adapter/adapter_config.json"])["base_model_name_or_path"] is None
    assert b"# LoRA adapter of x" in files["adapter/README.md"]
    assert str(tmp_path).encode() not in b"".join(files.values())

    # the snippet of the card, on this disk
    base = AutoModelForImageClassification.from_pretrained(checkpoint, num_labels=3, ignore_mismatched_sizes=True)
    adapted = PeftModel.from_pretrained(base, tmp_path / "run", subfolder="adapter").eval()
    merged = pipeline("image-classification", model=str(run.path))
    image = next(shapes.glob("*/*.jpg"))
    pixels = merged.preprocess(str(image))["pixel_values"]
    logits = adapted(pixel_values=pixels).logits.detach().numpy()
    wanted = merged.model(pixel_values=pixels).logits.detach().numpy()
    np.testing.assert_allclose(logits, wanted, atol=1e-4)


def test_the_files_are_gone_when_the_push_ends(run):
    with contextlib.suppress(KeyError), publish.stage_files(run, "tester/x", license=None) as files:
        copy = files["metrics.json"]
        assert copy.is_file()
        raise KeyError
    assert not copy.exists()
    assert (run / run_folder.WEIGHTS).is_file()
