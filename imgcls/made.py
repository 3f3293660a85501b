"""Where, when and how something was made: machine, versions, day, command."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import imgcls
from imgcls import machine

PACKAGES = ("torch", "torchvision", "transformers", "datasets", "accelerate", "timm", "peft")
SECRET = "--hub_token"


def facts() -> dict:
    """{"date", "machine", "versions", "command"}, plain values."""
    versions = {"imgcls": imgcls.__version__, "python": platform.python_version()}
    versions |= {name: importlib.metadata.version(name) for name in PACKAGES}
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"date": today, "machine": machine.name(), "versions": versions, "command": command(sys.argv)}


def command(argv: Sequence[str]) -> str:
    """The command line that started this, as it can be given again; without a token."""
    processes, here = (int(os.environ.get(name, 1)) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    nodes = f"--nnodes {processes // here} " if processes > here else ""
    launcher = f"torchrun {nodes}--nproc_per_node {here}" if processes > 1 else "python"
    words, secret = [], False
    for word in argv[1:]:
        if not secret and not word.startswith(SECRET + "="):
            words.append(word)
        secret = word == SECRET
        if secret:
            words.pop()
    return f"{launcher} scripts/{Path(argv[0]).name} {shlex.join(words)}".rstrip()
