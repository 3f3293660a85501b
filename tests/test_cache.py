"""Verdicts on images: kept between runs, forgotten when a file changes, done without when they cannot be kept."""

import logging
import os
from pathlib import Path

import pytest

from imgcls.cache import Verdicts


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("IMGCLS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def files(tmp_path):
    for name in ("sound", "broken"):
        (tmp_path / name).write_text(name)
    return [str(tmp_path / name) for name in ("sound", "broken")]


def test_verdicts_outlive_the_run(files):
    verdicts = dict(zip(files, (None, "truncated"), strict=True))
    Verdicts().keep(verdicts)
    assert Verdicts().known([*files, "never seen"]) == verdicts


@pytest.mark.parametrize("change", [lambda f: Path(f).write_text("more"), lambda f: os.utime(f, (1, 1)), os.remove])
def test_a_file_that_changed_is_not_known(files, change):
    Verdicts().keep(dict.fromkeys(files))
    change(files[0])
    assert Verdicts().known(files) == {files[1]: None}


def test_a_cache_that_cannot_be_used_is_said_and_done_without(files, cache, caplog):
    cache.write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        verdicts = Verdicts()
    verdicts.keep(dict.fromkeys(files))
    assert verdicts.known(files) == {}
    assert f"not kept: [Errno 17] File exists: '{cache}'" in caplog.text


def test_a_damaged_cache_is_said_and_done_without(files, cache, caplog):
    cache.mkdir()
    (cache / "verdicts.sqlite").write_text("this is no data base, but long enough to be read as one" * 20)
    with caplog.at_level(logging.WARNING):
        assert Verdicts().known(files) == {}
    assert "file is not a database" in caplog.text
