"""Where the pixel cache is: on disk, in memory, nowhere; what is removed, and when."""

import logging
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from cached_pictures import BYTES, read_pictures

from imgcls.errors import OptionError
from imgcls.storage import pixel_location
from imgcls.storage.pixel_location import open_pixel_cache


@pytest.fixture
def places(tmp_path, monkeypatch):
    """An empty cache folder, and an empty folder in place of the memory's."""
    memory = tmp_path / "memory"
    memory.mkdir()
    monkeypatch.setenv("IMGCLS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pixel_location, "MEMORY", memory)
    return SimpleNamespace(root=tmp_path / "cache", memory=memory)


def test_open_pixel_cache_follows_the_kind(places):
    assert open_pixel_cache("off").folder is None
    assert open_pixel_cache("auto").folder == open_pixel_cache("disk").folder == places.root / "pixels"
    ram = open_pixel_cache("ram")
    assert ram.folder.parent == places.memory
    assert read_pictures(ram, [0]) == [0]
    assert read_pictures(open_pixel_cache("ram"), [0]) == []
    assert read_pictures(open_pixel_cache("auto"), [0]) == [0]


def test_open_pixel_cache_takes_a_fraction_of_the_free_bytes_or_the_limit(places, monkeypatch):
    read_pictures(open_pixel_cache("disk"), range(4))
    monkeypatch.setattr(pixel_location.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    monkeypatch.setattr(pixel_location.psutil, "virtual_memory", lambda: SimpleNamespace(available=4 * 10**5))
    assert open_pixel_cache("disk").most_bytes == round(0.3 * (10**6 + 4 * BYTES))
    assert open_pixel_cache("auto").folder.parent == places.memory  # the disk is nearly full
    monkeypatch.setattr(pixel_location, "LEAST_BYTES", 1000)
    assert open_pixel_cache("auto").most_bytes == open_pixel_cache("disk").most_bytes
    assert open_pixel_cache("ram").most_bytes == 2 * 10**5
    assert open_pixel_cache("auto", 0.0005).most_bytes == 500_000
    assert open_pixel_cache("disk", 3.0).most_bytes == 10**6 + 4 * BYTES
    assert open_pixel_cache("ram", 3.0).most_bytes == 4 * 10**5


@pytest.mark.parametrize("name", ["cache", "cache/pixels"])
def test_open_pixel_cache_raises_or_uses_memory_if_the_disk_is_not_writable(places, tmp_path, caplog, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("a file in the folder's place")
    with pytest.raises(OptionError, match=r"Expected a folder for --cache disk .*pixels: .*IMGCLS_CACHE.*--cache ram"):
        open_pixel_cache("disk")
    assert not caplog.messages
    with caplog.at_level(logging.WARNING):
        cache = open_pixel_cache("auto")
    (line,) = caplog.messages
    assert line.startswith(f"pixel cache: in memory, for this run only: {places.root / 'pixels'}: ")
    assert cache.folder.parent == places.memory
    assert read_pictures(cache, [0]) == [0]
    assert read_pictures(cache, [0]) == []


@pytest.mark.parametrize("kind", ["auto", "ram"])
def test_open_pixel_cache_names_the_folder_if_memory_is_not_one(places, tmp_path, monkeypatch, caplog, kind):
    (tmp_path / "cache").write_text("a file in the folder's place")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(pixel_location, "MEMORY", tmp_path / "none")
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(pixel_location.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    with caplog.at_level(logging.WARNING):
        cache = open_pixel_cache(kind)
    (line,) = caplog.messages
    assert line.startswith(f"pixel cache: in {temporary}, for this run only: ")
    assert cache.folder.parent == temporary
    assert cache.most_bytes == 3 * 10**5  # the fraction for a disk


def store_in_memory(sender):
    cache = open_pixel_cache("ram")
    read_pictures(cache, range(3))
    sender.send(cache.folder)
    signal.pause()


def test_open_pixel_cache_removes_what_a_killed_run_left_in_memory(server):
    receiver, sender = server.Pipe(duplex=False)
    run = server.Process(target=store_in_memory, args=(sender,))
    run.start()
    folder = receiver.recv()
    open_pixel_cache("ram")
    assert list(folder.glob("*.pack")), "a living run's files were removed"
    os.kill(run.pid, signal.SIGKILL)
    run.join()
    assert folder.exists()
    open_pixel_cache("ram")
    assert not folder.exists()


LAUNCH = """
import os, sys
import numpy as np
from imgcls.storage.pixel_location import open_pixel_cache
from imgcls.storage.pixel_cache import CacheRequest

def store():
    computed = []
    cache = open_pixel_cache("ram")
    cache.read([CacheRequest(b"0" * 16, lambda: computed.append(1) or np.zeros((2, 2, 3), np.uint8))])
    return cache, len(computed)

def fork(rank, work):
    child = os.fork()
    if child == 0:
        os.environ |= {"LOCAL_RANK": str(rank), "RANK": str(rank)}
        work()
        sys.exit()
    return child

def first():
    cache, computed = store()
    os.write(stored[1], b"1")
    os.read(second_ended[0], 1)
    print(computed, len(list(cache.folder.glob("*"))), flush=True)

# A launch of two processes: the second ends while the first still works.
os.environ |= {"LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2"}
stored, second_ended = os.pipe(), os.pipe()
one = fork(0, first)
os.read(stored[0], 1)
two = fork(1, lambda: print(store()[1], end=" ", flush=True))
os.waitpid(two, 0)
os.write(second_ended[1], b"1")
os.waitpid(one, 0)

# A single process: a fork of it, such as a worker, ends while it still works.
os.environ["LOCAL_WORLD_SIZE"] = "1"
cache, computed = store()
os.waitpid(fork(0, lambda: None), 0)
print(computed, len(list(cache.folder.glob("*"))), cache.folder)
"""


def test_open_pixel_cache_in_memory_is_shared_by_a_launch_and_removed_by_the_last():
    done = subprocess.run([sys.executable, "-c", LAUNCH], capture_output=True, text=True, timeout=60)
    assert not done.stderr
    launch, single = done.stdout.splitlines()
    assert launch == "0 1 2"  # the second found the first one's image; pack and index stay as long as that works
    *single, folder = single.split()
    assert single == ["1", "2"]
    assert folder.endswith(tuple("0123456789"))
    assert not Path(folder).exists()


def test_clear_cache_removes_all_caches_and_nothing_else(places, caplog):
    pixel_location.clear_cache()
    read_pictures(open_pixel_cache("disk"), range(400))
    for name in ("features/a.npy", "precision/d.npy", "copies/b.npy", "inspections.sqlite", "digits/c.png"):
        (places.root / name).parent.mkdir(exist_ok=True)
        (places.root / name).write_bytes(bytes(10**6))
    with caplog.at_level(logging.INFO):
        pixel_location.clear_cache()
    assert [file.name for file in places.root.rglob("*") if file.is_file()] == ["c.png"]
    assert f"cache: 5 MB removed from {places.root}" in caplog.text
    assert read_pictures(open_pixel_cache("disk"), range(3)) == [0, 1, 2]
