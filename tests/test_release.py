"""What of a run leaves this machine: all that makes a model whole, and nothing that tells of the machine."""

import contextlib
import json

import numpy as np
import pytest
import tiny
from transformers import pipeline

from imgcls import artifacts, release
from imgcls.errors import RunError


@pytest.fixture
def run(shared, tmp_path):
    """A copy of the shared run that a test may change, with all that it must not let go."""
    import shutil

    copy = artifacts.RunFolder(shutil.copytree(shared.path, tmp_path / "run"))
    (copy / artifacts.CARD).unlink(missing_ok=True)
    (copy / "checkpoints/checkpoint-1").mkdir(parents=True)
    (copy / "checkpoints/checkpoint-1/optimizer.pt").write_bytes(b"state")
    (copy / "export").mkdir()
    (copy / "export/model.onnx").write_bytes(b"onnx")
    copy.write_json("export/export.json", {"file": "model.onnx"})
    return copy


def staged(run, **options):
    """What is pushed, name -> content."""
    with release.staged(run, "tester/x", **({"license": "mit"} | options)) as files:
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
    secrets = [b"secret_place", str(run.path.parent).encode(), str(shared.path.parent).encode(), b"hf_secret"]
    kept = run.path.rglob("*")
    assert any(b"secret_place" in file.read_bytes() for file in kept if file.is_file())  # so that this can fail
    for name, content in staged(run, include=["export", "report"]).items():
        found = [s for s in secrets[1:] if s in content]
        assert not found, (name, found)
        # the last name of a path stays: it is what the data is called
        assert secrets[0] + b"/" not in content.replace(b"--data secret_place ", b"")


def test_paths_are_hidden_in_every_spelling(run):
    hidden = ["/home/me/my photos & more", "/home/me"]
    text = 'a /home/me/my photos &amp; more/x.jpg b "/home/me/my photos & more" c /home/me/y'
    assert release.without_paths(text, hidden) == 'a my photos &amp; more/x.jpg b "my photos & more" c me/y'


def test_what_is_on_the_hub_is_no_path_of_ours(run):
    metrics = run.read_json(artifacts.METRICS)
    metrics["sources"] = {"base_model": "someone/their-model", "dataset": "someone/photos", "demo": False}
    run.write_json(artifacts.METRICS, metrics | {"model": "someone/their-model"})
    options = run.read_options()
    run.write_options(options | {"model": "someone/their-model", "data": "someone/photos"})
    assert not {"someone/their-model", "someone/photos"} & set(release.private_paths(run))
    assert b"someone/their-model" in staged(run)["metrics.json"]


def test_images_by_absolute_paths(run):
    rows = [("/mnt/private/patients/1.jpg", "a|b", "train", "")]
    run.write_csv(artifacts.SPLIT, artifacts.SPLIT_COLUMNS, rows)
    assert {"/mnt/private/patients", "/mnt/private"} <= set(release.private_paths(run))


def test_an_edited_card_is_pushed_as_it_is(run):
    first = staged(run)["README.md"]
    assert (run / artifacts.CARD).read_bytes() == first
    assert b"tester/x" in first
    with release.staged(run, "other/y", license=None) as files:
        assert b"other/y" in files["README.md"].read_bytes()  # written anew
    (run / artifacts.CARD).write_text("---\nlicense: mit\n---\n\n# Mine\n")
    assert staged(run)["README.md"] == b"---\nlicense: mit\n---\n\n# Mine\n"


def test_the_license_is_the_checkpoint_s(run):
    metrics = run.read_json(artifacts.METRICS)
    assert release.license_of(run) is None
    run.write_json(artifacts.METRICS, metrics | {"sources": {"base_model": "microsoft/resnet-18"}})
    assert release.license_of(run) == "apache-2.0"


def test_the_license_of_another_checkpoint_is_asked_for_and_not_waited_for(run, monkeypatch, caplog):
    metrics = run.read_json(artifacts.METRICS)
    run.write_json(artifacts.METRICS, metrics | {"sources": {"base_model": "someone/model"}})

    class Info:
        card_data = {"license": "cc-by-4.0"}  # noqa: RUF012

    monkeypatch.setattr(release, "model_info", lambda name: Info)
    assert release.license_of(run) == "cc-by-4.0"

    def broken(name):
        raise ConnectionError

    monkeypatch.setattr(release, "model_info", broken)
    assert release.license_of(run) is None
    assert "--license" in caplog.text


def test_what_is_missing_is_said(run, tmp_path):
    with pytest.raises(RunError, match="Expected a finished run"):
        release.check(artifacts.RunFolder(tmp_path))
    release.check(run, ["export", "report"])
    (run / "export/export.json").unlink()
    with pytest.raises(RunError, match=r"scripts/export\.py --run"):
        release.check(run, ["export"])
    (run / artifacts.REPORT).unlink()
    with pytest.raises(RunError, match="Leave out --include report"):
        release.check(run, ["report"])


@pytest.mark.parametrize("name", ["resnet-18", "vit-base"])
def test_an_adapter_brings_a_card_that_puts_it_on_its_base(train, shapes, tmp_path, name):
    from peft import PeftModel
    from transformers import AutoModelForImageClassification

    checkpoint = tiny.write(name, tmp_path / "checkpoint")
    options = ["--data", shapes, "--model", checkpoint, "--output_dir", tmp_path / "run", "--epochs", 2]
    assert train(*options, "--tune", "lora").returncode == 0
    run = artifacts.RunFolder(tmp_path / "run")
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
    with contextlib.suppress(KeyError), release.staged(run, "tester/x", license=None) as files:
        copy = files["metrics.json"]
        assert copy.is_file()
        raise KeyError
    assert not copy.exists()
    assert (run / artifacts.WEIGHTS).is_file()
