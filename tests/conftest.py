"""Caches of their own for every test run, and no network."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

_HOME = tempfile.TemporaryDirectory(prefix="imgcls-tests-")
os.environ |= {
    "IMGCLS_CACHE": f"{_HOME.name}/imgcls",
    "HF_HOME": f"{_HOME.name}/hf",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
for name in ("HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_ENDPOINT"):
    os.environ.pop(name, None)
TRAIN = Path(__file__).parent.parent / "scripts" / "train.py"


@pytest.fixture(scope="session")
def train():
    """Run scripts/train.py with arguments; returns the finished process, its output as text."""

    def run(*arguments, cwd=None, env=None, launcher=(sys.executable,), timeout=240):
        command = [*launcher, str(TRAIN), *map(str, arguments)]
        return subprocess.run(
            command, cwd=cwd, env=env or os.environ.copy(), capture_output=True, text=True, timeout=timeout
        )

    return run
