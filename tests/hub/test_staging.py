"""Which files of a run are pushed: all that makes a model whole, and nothing that tells of the machine."""

import contextlib
import json

import numpy as np
import pytest
import tiny
from transformers import pipeline

from imgcls.hub import staging
from imgcls.storage import run_folder

ALWAYS = {
    "README.md", "calibration.json", "config.json", "figures/confusion_matrix.png", "figures/coverage.png",
    "figures/curves.png", "figures/reliability.png", "metrics.json", "model.safetensors", "preprocessor_config.json",
}  # fmt: skip


def test_stage_files_takes_a_whitelist(run, stage):
    assert set(stage(run)) == ALWAYS
    everything = stage(run, include=["export", "report"])
    assert set(everything) == ALWAYS | {"export/model.onnx", "export/export.json", "report.html"}


def test_stage_files_holds_no_paths_and_tokens(run, shared, stage):
    secrets = [str(run.path.parent).encode(), str(shared.path.parent).encode(), b"hf_secret"]
    contents = [file.read_bytes() for file in run.path.rglob("*") if file.is_file()]
    assert any(secrets[1] in content for content in contents)  # so that this can fail
    for name, content in stage(run, include=["export", "report"]).items():
        leaked = [s for s in secrets if s in content]
        assert not leaked, (name, leaked)
        assert b"secret_place/" not in content, name  # the last name of a path stays: it is what the data is called


def test_stage_files_redacts_the_command_of_an_earlier_version(run, stage):
    metrics = run.read_json(run_folder.METRICS)
    metrics["made"]["command"] += " --hub-token hf_older --data=/home/somebody/photos"
    run.write_json(run_folder.METRICS, metrics)
    for name in ("README.md", "metrics.json"):
        content = stage(run)[name]
        assert b"hf_older" not in content
        assert b"somebody" not in content
        assert b"--data photos" in content


def test_stage_files_does_not_change_the_model(run, stage):
    for name in ("config.json", "preprocessor_config.json", "calibration.json", "model.safetensors"):
        assert stage(run)[name] == (run / name).read_bytes()


def test_stage_files_takes_only_named_files_of_an_export(run, stage):
    (run / "export/.env").write_text("SECRET=1")
    assert {name for name in stage(run, include=["export"]) if "export" in name} == {
        "export/model.onnx", "export/export.json",
    }  # fmt: skip


def test_stage_files_redacts_images_outside_of_the_data_folder(run, stage):
    rows = [("../../customer/patients/1.jpg", "a|b", "train", "")]
    run.write_csv(run_folder.SPLIT, run_folder.SPLIT_COLUMNS, rows)
    run.write_text(run_folder.REPORT, "<bdi>../../customer/patients/1.jpg</bdi>")
    assert stage(run, include=["report"])["report.html"] == b"<bdi>patients/1.jpg</bdi>"


@pytest.mark.parametrize("name", ["resnet-18", "vit-base"])
def test_stage_files_of_a_lora_run_brings_an_adapter_card_whose_code_works(train, shapes, tmp_path, name, stage):
    from peft import PeftModel
    from transformers import AutoModelForImageClassification

    checkpoint = tiny.write(name, tmp_path / "checkpoint")
    options = ["--data", shapes, "--model", checkpoint, "--output_dir", tmp_path / "run", "--epochs", 2]
    assert train(*options, "--tune", "lora").returncode == 0
    run = run_folder.RunFolder(tmp_path / "run")
    files = stage(run)
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
    expected = merged.model(pixel_values=pixels).logits.detach().numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_stage_files_deletes_its_copies_after_the_block(run):
    with contextlib.suppress(KeyError), staging.stage_files(run, "tester/x", license=None) as files:
        copy = files["metrics.json"]
        assert copy.is_file()
        raise KeyError
    assert not copy.exists()
    assert (run / run_folder.WEIGHTS).is_file()


def test_private_paths_excludes_hub_ids(run, stage):
    metrics = run.read_json(run_folder.METRICS)
    metrics["sources"] = {"base_model": "someone/their-model", "dataset": "someone/photos", "demo": False}
    run.write_json(run_folder.METRICS, metrics | {"model": "someone/their-model"})
    options = run.read_options()
    run.write_options(options | {"model": "someone/their-model", "data": "someone/photos"})
    assert not {"someone/their-model", "someone/photos"} & staging.private_paths(run)
    assert b"someone/their-model" in stage(run)["metrics.json"]


def test_private_paths_holds_folders_of_absolute_images(run):
    rows = [("/mnt/private/patients/1.jpg", "a|b", "train", "")]
    run.write_csv(run_folder.SPLIT, run_folder.SPLIT_COLUMNS, rows)
    assert {"/mnt/private/patients", "/mnt/private"} <= staging.private_paths(run)
