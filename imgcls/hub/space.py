"""A Space: a page on the Hub on which anybody can try a pushed model, with the same app as scripts/demo.py."""

from __future__ import annotations

import contextlib
import importlib.metadata
import tempfile
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import SpaceCardData
from packaging.requirements import Requirement

import imgcls
from imgcls.errors import HubError
from imgcls.hub import markdown

PACKAGE = Path(imgcls.__file__).parent
# imgcls is not on PyPI, so the Space gets a copy of the package next to its app.
_APP = '''"""Try {model} in the browser."""

from imgcls.deploy import demo_app

demo_app.build_app("{model}").launch()
'''


@contextlib.contextmanager
def stage_space(model: str, *, private: bool) -> Iterator[dict[str, Path]]:
    """Files of a Space for the model `model` ("owner/name"): path in the Space -> file, valid inside the block.

    Raises HubError when imgcls is not installed as a distribution, so that its dependencies are unknown.
    """
    metadata = SpaceCardData(
        title=model.split("/")[1],
        sdk="gradio",
        python_version="3.12",
        app_file="app.py",
        models=[model],
        license="apache-2.0",
    )
    texts = {
        "app.py": _APP.format(model=model),
        "requirements.txt": "\n".join(space_requirements()) + "\n",
        "README.md": markdown.render("space_card.md", metadata=metadata, model=model, private=private),
    }
    with tempfile.TemporaryDirectory(prefix="imgcls-space-") as folder:
        files = {f"imgcls/{file.relative_to(PACKAGE).as_posix()}": file for file in _package_files()}
        for name, text in texts.items():
            files[name] = Path(folder, name)
            files[name].write_text(text)
        yield files


def space_requirements() -> list[str]:
    """Requirements of imgcls and its demo, as installed: one "name>=version" each.

    Raises HubError when imgcls is not installed as a distribution.
    """
    try:
        lines = importlib.metadata.requires("imgcls") or []
    except importlib.metadata.PackageNotFoundError as error:
        raise HubError(
            f"Expected imgcls to be installed, got only its files in {PACKAGE}. "
            f"Install it with: pip install -e {PACKAGE.parent}"
        ) from error
    requirements = map(Requirement, lines)
    return [f"{r.name}{r.specifier}" for r in requirements if r.marker is None or r.marker.evaluate({"extra": "demo"})]


def _package_files() -> list[Path]:
    """Modules, templates and other data files of the package."""
    return sorted(f for f in PACKAGE.rglob("*") if f.is_file() and "__pycache__" not in f.parts)
