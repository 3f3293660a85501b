"""Where and with what something was made: machine, versions, day."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform

import imgcls
from imgcls import machine

PACKAGES = ("torch", "torchvision", "transformers", "datasets", "accelerate", "timm", "peft")


def facts() -> dict:
    """{"date", "machine", "versions"}, plain values."""
    versions = {"imgcls": imgcls.__version__, "python": platform.python_version()}
    versions |= {name: importlib.metadata.version(name) for name in PACKAGES}
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"date": today, "machine": f"{platform.machine()}, {machine.name()}", "versions": versions}
