"""Inspections of images: stored between runs, ignored once a file has changed, and not needed to go on."""

import logging
import os
from pathlib import Path

import pytest

from imgcls.storage.inspection_cache import InspectionCache


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("IMGCLS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def files(tmp_path):
    for name in ("sound", "broken"):
        (tmp_path / name).write_text(name)
    return [str(tmp_path / name) for name in ("sound", "broken")]


def lookup(paths, version=1):
    return {paths[i]: (reason, record) for i, reason, record in InspectionCache(version).lookup(paths)}


INSPECTIONS = {"sound": (None, b"\x00facts"), "broken": ("truncated", b"")}


@pytest.fixture
def inspected(files):
    InspectionCache(1).add([(path, *INSPECTIONS[Path(path).name]) for path in files])
    return files


def test_lookup_finds_what_another_run_added(inspected):
    assert lookup([*inspected, "unknown"]) == {path: INSPECTIONS[Path(path).name] for path in inspected}


@pytest.mark.parametrize("change", [lambda f: Path(f).write_text("more"), lambda f: os.utime(f, (1, 1)), os.remove])
def test_lookup_ignores_a_file_that_changed(inspected, change):
    change(inspected[0])
    assert set(lookup(inspected)) == {inspected[1]}


def test_lookup_ignores_another_version(inspected):
    assert lookup(inspected, version=2) == {}


def test_lookup_of_many_files_with_names_that_are_not_unicode(tmp_path):
    paths = [f"{tmp_path}/{i}\udcff.jpg" for i in range(1_100)]
    for path in paths:
        Path(path).touch()
    InspectionCache(1).add([(path, None, str(i).encode()) for i, path in enumerate(paths)])
    assert lookup(paths) == {path: (None, str(i).encode()) for i, path in enumerate(paths)}


def test_add_without_a_writable_folder_warns_and_does_nothing(files, cache, caplog):
    cache.write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        inspections = InspectionCache(1)
    inspections.add([(path, None, b"") for path in files])
    assert list(inspections.lookup(files)) == []
    assert f"cannot store inspections of images in {cache}: [Errno 17] File exists: '{cache}'" in caplog.text


def test_lookup_in_a_damaged_cache_warns_and_finds_nothing(files, cache, caplog):
    cache.mkdir()
    (cache / "inspections.sqlite").write_text("this is not a database, but long enough to be read as one" * 20)
    with caplog.at_level(logging.WARNING):
        assert lookup(files) == {}
    assert "file is not a database" in caplog.text


def test_lookup_in_a_partly_damaged_cache_warns_and_finds_nothing(tmp_path, cache, caplog):
    paths = [f"{tmp_path}/{i}.jpg" for i in range(1_000)]
    for path in paths:
        Path(path).touch()
    InspectionCache(1).add([(path, None, bytes(200)) for path in paths])
    with open(cache / "inspections.sqlite", "r+b") as file:
        file.seek(16_384)
        file.write(b"\xa5" * 200_000)
    with caplog.at_level(logging.WARNING):
        assert lookup(paths) == {}
    assert "malformed" in caplog.text
