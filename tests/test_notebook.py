"""The Colab notebook runs from top to bottom as it is, to a model on the Hub."""

import os

import nbformat
import pytest
import tiny
from commands import TESTS
from loopback import LoopbackHub
from nbclient import NotebookClient

ROOT = TESTS.parent
NOTEBOOK = ROOT / "notebooks" / "finetune_colab.ipynb"
SETTINGS = 'REPO = "tester/notebook"\nOPTIONS = "--tune full --epochs 1 --check off"'


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the client's own event loop
def test_it_runs_from_nothing_to_a_pushed_model(tmp_path, monkeypatch):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (at,) = [i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])]
    notebook.cells.insert(at + 1, nbformat.v4.new_code_cell(SETTINGS))
    for name in ("scripts", "imgcls", "requirements.txt", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    with LoopbackHub() as hub:
        hub.add_user("tester", "hf_write", "write")
        hub.add_model(tiny.HUB_IDS["resnet-18"], tiny.write("resnet-18", tmp_path / "checkpoint"))
        settings = hub.env(tmp_path / "home") | {"HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_write"}
        for key, value in (settings | {"IPYTHONDIR": str(tmp_path / "ipython")}).items():
            monkeypatch.setenv(key, value)
        client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
        client.execute()
        assert {"model.safetensors", "README.md", "export/model.onnx"} <= set(hub.files("tester/notebook"))
    printed = "".join(out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", []))
    assert "1797 images" in printed.replace(",", "")
    pages = [out for cell in notebook.cells for out in cell.get("outputs", []) if "text/html" in out.get("data", {})]
    assert len(pages) == 2
    assert os.path.isfile(tmp_path / "runs/digits-resnet-18/report.html")


def test_it_holds_no_results_and_no_addresses_of_ours():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert not [cell for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")]
