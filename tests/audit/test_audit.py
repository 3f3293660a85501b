"""Audits: each image is inspected once, and again only after a change."""

from pathlib import Path

import pytest
from drawings import photo

from imgcls.audit import audit, image_stats
from imgcls.data.listing import ImageFile


@pytest.fixture
def inspected(tmp_path, monkeypatch):
    """Paths that were inspected, with an empty cache."""
    inspected = []

    def count(sources, on_decoded):
        inspected.extend(sources)
        return image_stats.inspect_images(sources, on_decoded)

    monkeypatch.setattr(audit, "inspect_images", count)
    monkeypatch.setenv("IMGCLS_CACHE", str(tmp_path / "cache"))
    return inspected


def reasons(keys, source=None):
    """Position -> reason of each image that cannot be decoded."""
    audited = audit.run_audit(
        [ImageFile(key, "a") for key in keys], keys, source or keys.__getitem__, show_progress=False
    )
    return {i: reason for i, reason in enumerate(audited.reasons) if reason is not None}


@pytest.fixture
def paths(tmp_path):
    paths = [str(tmp_path / f"{i}.jpg") for i in range(6)]
    for i, path in enumerate(paths):
        photo(40, 30, i).save(path)
    with open(paths[3], "r+b") as file:
        file.truncate(300)
    Path(paths[5]).write_bytes(b"")
    return paths


def test_run_audit_gives_reasons_for_broken_files(paths, inspected):
    found = reasons(paths)
    assert set(found) == {3, 5}
    assert "truncated" in found[3].lower()
    assert "empty" in found[5]


def test_run_audit_inspects_files_again_only_if_they_changed(paths, inspected):
    first = reasons(paths)
    assert sorted(inspected) == paths
    inspected.clear()
    assert reasons(paths) == first
    assert inspected == []
    photo(50, 30, 9).save(paths[5])
    assert set(reasons(paths)) == {3}
    assert inspected == [paths[5]]


def test_run_audit_reads_bytes_of_a_hub_dataset(paths, inspected):
    encoded = [Path(path).read_bytes() for path in paths]
    keys = [f"someone/photos@1f/train/{i}" for i in range(len(paths))]
    assert set(reasons(keys, encoded.__getitem__)) == {3, 5}
