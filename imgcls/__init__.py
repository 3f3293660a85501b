"""imgcls: from a folder of images per class to a classifier its owner can trust and ship."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imgcls.api import TrainedModel, check, train

__version__ = "0.1.0"
__all__ = ["TrainedModel", "__version__", "check", "train"]


def __getattr__(name: str) -> Any:
    """Import the API when it is first used: `import imgcls` alone takes no time."""
    if name in ("TrainedModel", "check", "train"):
        return getattr(importlib.import_module("imgcls.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
