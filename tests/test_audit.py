"""Which images cannot be decoded: each looked at once, and again only after a change."""

from pathlib import Path

import pytest
from drawings import photo

from imgcls import audit, images


@pytest.fixture
def looked_at(tmp_path, monkeypatch):
    """Paths that were decoded, in a fresh cache."""
    seen = []
    judge = images.unreadable_reason

    def count(source):
        seen.append(source)
        return judge(source)

    monkeypatch.setattr(images, "unreadable_reason", count)
    monkeypatch.setenv("IMGCLS_CACHE", str(tmp_path / "cache"))
    return seen


@pytest.fixture
def paths(tmp_path):
    paths = [str(tmp_path / f"{i}.jpg") for i in range(6)]
    for i, path in enumerate(paths):
        photo(40, 30, i).save(path)
    with open(paths[3], "r+b") as file:
        file.truncate(300)
    Path(paths[5]).write_bytes(b"")
    return paths


def test_broken_files_by_position_with_reasons(paths, looked_at):
    found = audit.unreadable(paths, paths.__getitem__, show_progress=False)
    assert set(found) == {3, 5}
    assert "truncated" in found[3].lower()
    assert "empty" in found[5]


def test_files_are_looked_at_again_only_when_they_changed(paths, looked_at):
    first = audit.unreadable(paths, paths.__getitem__, show_progress=False)
    assert sorted(looked_at) == paths
    looked_at.clear()
    assert audit.unreadable(paths, paths.__getitem__, show_progress=False) == first
    assert looked_at == []
    photo(50, 30, 9).save(paths[5])
    assert set(audit.unreadable(paths, paths.__getitem__, show_progress=False)) == {3}
    assert looked_at == [paths[5]]


def test_a_hub_data_set_s_bytes(paths, looked_at):
    encoded = [Path(path).read_bytes() for path in paths]
    keys = [f"someone/photos@1f/train/{i}" for i in range(len(paths))]
    assert set(audit.unreadable(keys, encoded.__getitem__, show_progress=False)) == {3, 5}
