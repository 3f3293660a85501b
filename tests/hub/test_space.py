"""A Space is complete: what its app needs is uploaded with it."""

import importlib.metadata
import re
import shutil
import subprocess
import sys

import pytest
from loopback_cards import card_problems

from imgcls.errors import HubError
from imgcls.hub import space


@pytest.fixture
def space_folder(tmp_path):
    """The files of a Space, where the Hub would put them."""
    with space.stage_space("tester/model", private=False) as files:
        for name, file in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, tmp_path / name)
    return tmp_path


def test_stage_space_brings_every_module_the_app_imports(space_folder):
    pytest.importorskip("gradio")
    app = (space_folder / "app.py").read_text()
    assert 'demo_app.build_app("tester/model").launch()' in app
    # the app with another build_app, since there is no such model
    code = (
        "import imgcls.deploy.demo_app as d; d.build_app = lambda run: type('Page', (), {'launch': lambda self: "
        "print(imgcls.__file__, run)})(); import imgcls; exec(open('app.py').read())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=space_folder, capture_output=True, text=True)
    assert done.stdout.split() == [str(space_folder / "imgcls/__init__.py"), "tester/model"], done.stderr


def test_stage_space_copies_data_files_and_no_bytecode(space_folder):
    copies = {file.relative_to(space_folder / "imgcls") for file in (space_folder / "imgcls").rglob("*.*")}
    package = {file.relative_to(space.PACKAGE) for file in space.PACKAGE.rglob("*.*")}
    assert copies == {file for file in package if "__pycache__" not in file.parts}


def test_stage_space_writes_a_valid_card_and_its_requirements(space_folder):
    assert card_problems((space_folder / "README.md").read_text(), "space") == ([], [])
    assert (space_folder / "requirements.txt").read_text().splitlines() == space.space_requirements()


def test_stage_space_asks_for_a_secret_when_the_model_is_private():
    with space.stage_space("tester/model", private=True) as files:
        assert "HF_TOKEN" in files["README.md"].read_text()


def test_space_requirements_are_the_dependencies_and_the_demo_extra(monkeypatch):
    lines = ["torch<3,>=2", "pillow", 'gradio>=6; extra == "demo"', 'onnx; extra == "export"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: lines)
    assert space.space_requirements() == ["torch<3,>=2", "pillow", "gradio>=6"]


def test_space_requirements_of_the_installed_package_are_complete():
    names = {re.split("[<>=]", line)[0] for line in space.space_requirements()}
    assert {"torch", "transformers", "pillow", "gradio"} <= names


def test_space_requirements_names_the_installation_when_there_is_no_distribution(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", missing)
    with pytest.raises(HubError, match=r"Install it with: pip install -e "):
        space.space_requirements()
