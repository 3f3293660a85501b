"""A Space is whole: what its app needs lies beside it."""

import re
import shutil
import subprocess
import sys

import pytest
from loopback_cards import card_problems

from imgcls.hub import space


@pytest.fixture
def laid(tmp_path):
    """The files of a Space, where the Hub would put them."""
    with space.stage_space("tester/model", private=False) as files:
        for name, file in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, tmp_path / name)
    return tmp_path


def test_its_app_shows_the_model_and_finds_all_modules(laid):
    pytest.importorskip("gradio")
    app = (laid / "app.py").read_text()
    compile(app, "app.py", "exec")
    assert 'demo.app("tester/model").launch()' in app
    code = "import imgcls.deploy.demo_app; print(imgcls.__file__, callable(imgcls.deploy.demo_app.build_app))"
    done = subprocess.run([sys.executable, "-c", code], cwd=laid, capture_output=True, text=True)
    assert done.stdout.split() == [str(laid / "imgcls/__init__.py"), "True"], done.stderr


def test_it_says_what_it_is_and_what_it_needs(laid):
    assert card_problems((laid / "README.md").read_text(), "space") == ([], [])
    needed = (laid / "requirements.txt").read_text().splitlines()
    assert "-e ." not in needed
    assert {"torch", "transformers", "gradio", "captum"} <= {re.split("[<>=]", line)[0] for line in needed}


def test_a_private_model_needs_a_secret():
    with space.stage_space("tester/model", private=True) as files:
        assert "HF_TOKEN" in files["README.md"].read_text()
