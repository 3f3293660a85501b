"""A finished run that a test of the package may change, and what of it would be pushed."""

import shutil

import pytest


@pytest.fixture
def run(shared, tmp_path):
    """A copy of the shared run, with files that must not be pushed."""
    from imgcls.storage import run_folder

    copy = run_folder.RunFolder(shutil.copytree(shared.path, tmp_path / "run"))
    (copy / run_folder.CARD).unlink(missing_ok=True)
    (copy / "checkpoints/checkpoint-1").mkdir(parents=True)
    (copy / "checkpoints/checkpoint-1/optimizer.pt").write_bytes(b"state")
    (copy / "export").mkdir()
    (copy / "export/model.onnx").write_bytes(b"onnx")
    copy.write_json("export/export.json", {"file": "model.onnx"})
    return copy


@pytest.fixture
def stage():
    """Content of the files of a run that would be pushed: name -> bytes."""
    from imgcls.hub import staging

    def read(run, **options):
        with staging.stage_files(run, "tester/x", **({"license": "mit"} | options)) as files:
            return {name: file.read_bytes() for name, file in files.items()}

    return read
