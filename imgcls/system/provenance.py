"""How a result was produced: date, machine, versions, command."""

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
from imgcls.system import hardware, redaction

PACKAGES = ("torch", "torchvision", "transformers", "datasets", "accelerate", "timm", "peft")


def collect_provenance() -> dict:
    """{"date", "machine", "versions", "command"}: plain values."""
    versions = {"imgcls": imgcls.__version__, "python": platform.python_version()}
    versions |= {name: importlib.metadata.version(name) for name in PACKAGES}
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"date": today, "machine": hardware.device_name(), "versions": versions, "command": command_line(sys.argv)}


def command_line(argv: Sequence[str]) -> str:
    """The command that started this process, in a form that can be repeated; without tokens and without folders."""
    processes, local_processes = (int(os.environ.get(name, 1)) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    nodes = f"--nnodes {processes // local_processes} " if processes > local_processes else ""
    launcher = f"torchrun {nodes}--nproc_per_node {local_processes}" if processes > 1 else "python"
    return f"{launcher} scripts/{Path(argv[0]).name} {shlex.join(redaction.redact_arguments(argv[1:]))}".rstrip()
