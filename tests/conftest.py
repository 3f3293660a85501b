"""Caches of their own for every test run, and no network; scripts run in this process or in one of their own."""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from types import SimpleNamespace

import pytest
from commands import TESTS, TRAIN, main_of
from drawings import class_folders

_HOME = tempfile.TemporaryDirectory(prefix="imgcls-tests-")
os.environ |= {
    "IMGCLS_CACHE": f"{_HOME.name}/imgcls",
    "HF_HOME": f"{_HOME.name}/hf",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores: more threads than cores make all of them slow
    os.environ.setdefault("OMP_NUM_THREADS", "1")
for name in ("HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_ENDPOINT"):
    os.environ.pop(name, None)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    """Class folders of drawings that a network learns in seconds; nothing in them may be changed."""
    return class_folders(tmp_path_factory.mktemp("data") / "shapes", per_class=12)


@pytest.fixture(scope="session")
def resnet(tmp_path_factory):
    """A tiny pretrained ResNet in its Hub layout."""
    import tiny  # its libraries read the environment when they are imported

    return tiny.write("resnet-18", tmp_path_factory.mktemp("resnet"))


@pytest.fixture
def train(monkeypatch):
    """Run scripts/train.py with arguments in this process, which spares the imports: (returncode, stdout, stderr)."""
    from imgcls.config import parser

    main = main_of(TRAIN)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [str(TRAIN), *map(str, arguments)])
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = parser.run_main(main)
            except SystemExit as left:
                code = left.code
        return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())

    return run


@pytest.fixture(scope="session")
def shared(tmp_path_factory, resnet):
    """A finished run of classes with names that are Markdown, HTML, YAML; its images lie in `secret_place`."""
    from imgcls.config import parser
    from imgcls.storage.run_folder import RunFolder

    root = tmp_path_factory.mktemp("shared")
    data = class_folders(root / "secret_place", ("a|b", "<b>x", "*y*: [z](u)"), per_class=12)
    argv = [TRAIN, "--data", data, "--model", resnet, "--output_dir", root / "run", "--epochs", 3, "--tune", "full",
            "--test_fraction", 0.2, "--hub_token", "hf_secret", "--traceback"]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.setattr(sys, "argv", [*map(str, argv)])
        assert parser.run_main(main_of(TRAIN)) == 0
    return RunFolder(root / "run")


@pytest.fixture(scope="session")
def launch():
    """Run a script (scripts/train.py) in processes of its own, as a user does; returns the finished process."""

    def run(*arguments, script=TRAIN, cwd=None, env=None, launcher=(sys.executable,), timeout=240):
        command = [*launcher, str(script), *map(str, arguments)]
        return subprocess.run(
            command, cwd=cwd, env=env or os.environ.copy(), capture_output=True, text=True, timeout=timeout
        )

    return run


@pytest.fixture(scope="session")
def staged(launch):
    """Commands of scripts/train.py with something staged (staged.py), in one process or under a launcher."""

    def run(*commands, env=None, **options):
        text = json.dumps([{**c, "arguments": [*map(str, c["arguments"])]} for c in commands], default=str)
        return launch(script=TESTS / "staged.py", env={**(env or os.environ), "STAGED": text}, **options)

    return run
