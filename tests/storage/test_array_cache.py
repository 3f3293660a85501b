"""Arrays stored between runs: computed once for each key, again when damaged, the least recently used removed."""

import logging
import os

import numpy as np
import pytest

from imgcls.storage import array_cache


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("IMGCLS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def cached(key, value):
    """The cached array of this key, and whether it had to be computed."""
    computed = []
    array = array_cache.cached_array("features", key, lambda: computed.append(1) or np.full(100, value))
    return array[0], bool(computed)


def test_cached_array_computes_once_for_each_key():
    assert cached("a", 1.0) == (1.0, True)
    assert cached("a", 2.0) == (1.0, False)
    assert cached("b", 2.0) == (2.0, True)


def test_cached_array_computes_again_what_was_cut_short(cache):
    cached("a", 1.0)
    (file,) = (cache / "features").iterdir()
    os.truncate(file, 200)
    assert cached("a", 2.0) == (2.0, True)
    assert cached("a", 3.0) == (2.0, False)


def test_cached_array_removes_the_least_recently_used(cache, monkeypatch):
    for seconds, key in enumerate("abc", 1):
        before = set((cache / "features").glob("*"))
        cached(key, 1.0)
        (file,) = set((cache / "features").glob("*")) - before
        os.utime(file, (seconds, seconds))
    monkeypatch.setattr(array_cache, "ARRAY_BYTES", 3 * file.stat().st_size)
    assert not cached("a", 2.0)[1]  # used now: b is the oldest
    assert cached("d", 1.0)[1]
    assert [cached(key, 2.0)[1] for key in "acd"] == [False] * 3
    assert cached("b", 2.0)[1]


def test_cached_array_without_a_writable_folder_warns(cache, caplog):
    cache.write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        assert cached("a", 1.0) == (1.0, True)
    assert f"cannot store features in {cache / 'features'}: " in caplog.text
