"""Which images cannot be decoded: each looked at once, and again only after a change."""

from pathlib import Path

import pytest
from drawings import photo

from imgcls.audit import audit, image_stats
from imgcls.data.listing import ImageFile


@pytest.fixture
def looked_at(tmp_path, monkeypatch):
    """Paths that were decoded, in a fresh cache."""
    seen = []

    def count(sources, told):
        seen.extend(sources)
        return image_stats.inspect_images(sources, told)

    monkeypatch.setattr(audit, "inspect_images", count)
    monkeypatch.setenv("IMGCLS_CACHE", str(tmp_path / "cache"))
    return seen


def reasons(keys, source=None):
    """Position -> reason of each image that cannot be decoded."""
    found = audit.run_audit(
        [ImageFile(key, "a") for key in keys], keys, source or keys.__getitem__, show_progress=False
    )
    return {i: reason for i, reason in enumerate(found.reasons) if reason is not None}


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
    found = reasons(paths)
    assert set(found) == {3, 5}
    assert "truncated" in found[3].lower()
    assert "empty" in found[5]


def test_files_are_looked_at_again_only_when_they_changed(paths, looked_at):
    first = reasons(paths)
    assert sorted(looked_at) == paths
    looked_at.clear()
    assert reasons(paths) == first
    assert looked_at == []
    photo(50, 30, 9).save(paths[5])
    assert set(reasons(paths)) == {3}
    assert looked_at == [paths[5]]


def test_a_hub_data_set_s_bytes(paths, looked_at):
    encoded = [Path(path).read_bytes() for path in paths]
    keys = [f"someone/photos@1f/train/{i}" for i in range(len(paths))]
    assert set(reasons(keys, encoded.__getitem__)) == {3, 5}
