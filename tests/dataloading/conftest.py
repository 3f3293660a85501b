"""Files of different shapes, their rows, a cache folder, and a count of decoded files."""

from collections import Counter
from pathlib import Path

import pytest
import tiny
from drawings import photo
from picture_datasets import rows_of

from imgcls.data import decoding

SIZES = [(160, 120), (120, 170), (150, 150), (40, 50), (300, 90), (97, 131)]


@pytest.fixture(scope="session", params=sorted(tiny.HUB_IDS))
def checkpoint(request, tmp_path_factory):
    """The name of each checkpoint, and a folder with a small one of its kind."""
    return request.param, tiny.write(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Files of different shapes, the fourth smaller than what is cached, half of them JPEGs."""
    folder = tmp_path_factory.mktemp("pictures")
    files = []
    for i, size in enumerate(SIZES):
        files.append(str(folder / f"{i}.{'jpg' if i % 2 else 'png'}"))
        photo(*size, seed=i).save(files[-1])
    return files


@pytest.fixture(scope="session")
def rows(pictures):
    return rows_of(pictures)


@pytest.fixture
def folder(tmp_path):
    """Where pixels are cached."""
    return tmp_path / "pixels"


@pytest.fixture
def decoded(monkeypatch):
    """How often each file was decoded, in any way."""
    count, to_rgb = Counter(), decoding.to_rgb

    def counting(image, at_least=None):
        count[Path(image.filename).name if getattr(image, "filename", "") else "bytes"] += 1
        return to_rgb(image, at_least)

    monkeypatch.setattr(decoding, "to_rgb", counting)
    return count
