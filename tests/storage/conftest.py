import multiprocessing

import pytest


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "pixels"


@pytest.fixture(scope="package")
def server():
    """Starts processes that inherit nothing of this one, without importing torch for each."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["imgcls.storage.pixel_cache"])
    return context
