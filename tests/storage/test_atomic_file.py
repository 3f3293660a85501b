"""Files that are written whole or not at all."""

import contextlib

import pytest

from imgcls.storage import atomic_file


def test_atomic_write_leaves_the_whole_file_or_nothing(tmp_path):
    path = tmp_path / "deep" / "file"
    with contextlib.suppress(ZeroDivisionError), atomic_file.atomic_write(path) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert not path.exists()
    with atomic_file.atomic_write(path) as file:
        file.write(b"whole")
    assert [p.name for p in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("count", "expected"), [(0, "0 kB"), (999_999, "1000 kB"), (1e6, "1 MB"), (57e6, "57 MB"), (1.24e9, "1.2 GB")]
)
def test_format_bytes(count, expected):
    assert atomic_file.format_bytes(count) == expected
