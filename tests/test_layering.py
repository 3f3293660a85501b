"""Packages of imgcls import only from lower floors, inside functions too; inside a package there is no circle."""

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = [
    {"errors"},
    {"config", "system"},
    {"storage"},
    {"data", "models"},
    {"audit", "dataloading"},
    {"evaluation"},
    {"probing", "training", "report", "hub"},
    {"experiment", "deploy"},
    {"api"},
]
FLOOR = {package: number for number, packages in enumerate(FLOORS) for package in packages}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in (ROOT / "imgcls").rglob("*.py")
    if path.name != "__init__.py"
}


def imported(path):
    """Full names of the imgcls modules that a file imports anywhere."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "imgcls":
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("imgcls."))


def package_of(module):
    return module.split(".")[1]


def test_every_package_has_a_floor():
    entries = [path for path in (ROOT / "imgcls").iterdir() if path.name not in ("__init__.py", "__pycache__")]
    assert {path.stem for path in entries if path.suffix == ".py" or path.is_dir()} == set(FLOOR)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_down(module):
    package = package_of(module)
    others = {other for other in imported(MODULES[module]) if other != "imgcls" and package_of(other) != package}
    assert not [other for other in others if FLOOR[package_of(other)] >= FLOOR[package]]


@pytest.mark.parametrize("package", sorted(FLOOR))
def test_a_package_has_no_circle(package):
    members = {module for module in MODULES if package_of(module) == package}
    imports = {module: set(imported(MODULES[module])) & members for module in members}
    assert set(graphlib.TopologicalSorter(imports).static_order()) == members  # raises CycleError for a circle


def test_scripts_do_not_import_scripts():
    scripts = {p.stem for p in (ROOT / "scripts").glob("*.py")}
    for path in (ROOT / "scripts").glob("*.py"):
        text = path.read_text()
        assert not [s for s in scripts if f"import {s}\n" in text or f"from {s} " in text or "from scripts" in text]
