"""The floors: a module of imgcls imports only from lower floors, inside functions too."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = [
    {"errors", "cpu", "deadline", "upload", "markdown", "privacy"},
    {
        "options", "cli", "checkpoints", "artifacts", "images", "listing", "splits", "intervals", "losses", "machine",
        "digits", "rehearsal", "layers", "inputs", "averaging", "scores", "explanation", "charts", "corruptions",
        "space",
        "levels", "capturing",
    },
    {
        "folder", "table", "cache", "inspection", "groups", "shortcut", "augmentation", "recipes", "source", "progress",
        "training_options", "run_options", "speed_options", "probe", "metrics", "pitfalls", "page", "calibration",
        "intake", "ledger", "sorting", "suspects", "made", "onnx_file", "hub", "profile", "resident",
    },
    {"pixels", "model_settings", "draws"},
    {
        "lookup", "duplicates", "hub_rows", "transforms", "model", "diagnosis", "answers", "confusion", "card_numbers",
        "checkpointing", "pixel_folder",
    },
    {"preprocessing"},
    {"views"},
    {"resident_view"},
    {"report", "audit", "dataset", "prediction", "trainer", "lora", "overlay", "card"},
    {"trials", "problems", "selection", "features", "labelled", "exhibit", "release"},
    {
        "summary", "demo", "file_rules", "picture_rules", "check_page", "start", "fitting", "recommendation",
        "validation", "export",
    },
    {"screening", "reporting", "comparison", "tuning"},
    {"search", "results"},
    {"experiment", "sharing"},
]  # fmt: skip
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}


def imported(path):
    """Names of imgcls modules (or packages, for scripts) that a file imports anywhere."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "imgcls":
                yield from (alias.name for alias in node.names)
            elif node.module.startswith("imgcls."):
                yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("imgcls."))


def test_every_module_has_a_floor():
    assert {p.stem for p in (ROOT / "imgcls").glob("*.py")} - {"__init__"} == set(FLOOR)


@pytest.mark.parametrize("name", sorted(FLOOR))
def test_imports_go_down(name):
    wrong = [other for other in imported(ROOT / "imgcls" / f"{name}.py") if FLOOR[other] >= FLOOR[name]]
    assert not wrong


def test_scripts_do_not_import_scripts():
    scripts = {p.stem for p in (ROOT / "scripts").glob("*.py")}
    for path in (ROOT / "scripts").glob("*.py"):
        text = path.read_text()
        assert not [s for s in scripts if f"import {s}\n" in text or f"from {s} " in text or "from scripts" in text]
