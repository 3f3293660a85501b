"""A page of the Hub (a Space) on which anybody can try a pushed model: the same app as scripts/demo.py."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import imgcls
from imgcls.errors import HubError

PACKAGE = Path(imgcls.__file__).parent
GRADIO = "gradio>=6.29.1"
# The Space runs what is here: imgcls is not on PyPI.
_APP = '''"""Try {model} in the browser."""

from imgcls import demo

demo.app("{model}").launch()
'''
_README = """---
title: {title}
sdk: gradio
python_version: "3.12"
app_file: app.py
models:
- {model}
license: apache-2.0
---

A page to try [{model}](https://huggingface.co/{model}). Pictures are not kept.
{secret}"""
_SECRET = (
    "\nThe model is private: give the Space a secret HF_TOKEN that may read it (Settings, Variables and secrets).\n"
)


@contextlib.contextmanager
def stage_space(model: str, *, private: bool) -> Iterator[dict[str, Path]]:
    """What a Space for the model `model` ("owner/name") is made of: path in it -> file, there inside the block."""
    requirements = PACKAGE.parent / "requirements.txt"
    if not requirements.is_file():
        raise HubError(f"Expected imgcls installed from its repository (pip install -e .), got none at {PACKAGE}.")
    lines = [line for line in requirements.read_text().splitlines() if not line.startswith("-e")]
    texts = {
        "app.py": _APP.format(model=model),
        "requirements.txt": "\n".join([*lines, GRADIO]) + "\n",
        "README.md": _README.format(
            title=json.dumps(model.split("/")[1]), model=model, secret=_SECRET if private else ""
        ),
    }
    with tempfile.TemporaryDirectory(prefix="imgcls-space-") as beside:
        files = {f"imgcls/{file.relative_to(PACKAGE)}": file for file in sorted(PACKAGE.rglob("*.py"))}
        for name, text in texts.items():
            files[name] = Path(beside, name)
            files[name].write_text(text)
        yield files
