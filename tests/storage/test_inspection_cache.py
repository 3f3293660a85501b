"""What is found out about images: kept between runs, forgotten when a file changes, done without if it cannot be."""

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


def known(paths, version=1):
    return {paths[i]: (reason, record) for i, reason, record in InspectionCache(version).known(paths)}


FOUND = {"sound": (None, b"\x00facts"), "broken": ("truncated", b"")}


@pytest.fixture
def kept(files):
    InspectionCache(1).keep([(path, *FOUND[Path(path).name]) for path in files])
    return files


def test_what_was_found_outlives_the_run(kept):
    assert known([*kept, "never seen"]) == {path: FOUND[Path(path).name] for path in kept}


@pytest.mark.parametrize("change", [lambda f: Path(f).write_text("more"), lambda f: os.utime(f, (1, 1)), os.remove])
def test_a_file_that_changed_is_not_known(kept, change):
    change(kept[0])
    assert set(known(kept)) == {kept[1]}


def test_what_another_version_found_is_not_known(kept):
    assert known(kept, version=2) == {}


def test_many_files_and_names_that_are_no_unicode(tmp_path):
    paths = [f"{tmp_path}/{i}\udcff.jpg" for i in range(1_100)]
    for path in paths:
        Path(path).touch()
    InspectionCache(1).keep([(path, None, str(i).encode()) for i, path in enumerate(paths)])
    assert known(paths) == {path: (None, str(i).encode()) for i, path in enumerate(paths)}


def test_a_cache_that_cannot_be_used_is_said_and_done_without(files, cache, caplog):
    cache.write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        inspections = InspectionCache(1)
    inspections.keep([(path, None, b"") for path in files])
    assert list(inspections.known(files)) == []
    assert f"not kept: [Errno 17] File exists: '{cache}'" in caplog.text


def test_a_damaged_cache_is_said_and_done_without(files, cache, caplog):
    cache.mkdir()
    (cache / "inspections.sqlite").write_text("this is no data base, but long enough to be read as one" * 20)
    with caplog.at_level(logging.WARNING):
        assert known(files) == {}
    assert "file is not a database" in caplog.text
