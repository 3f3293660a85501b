"""The pixel cache: what was stored is read by every process, never wrong pixels, and never more than the limit."""

import errno
import logging
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import torch
from cached_pictures import (
    BYTES,
    LIMIT,
    SHAPE,
    key,
    make_older,
    open_earlier,
    pack_bytes,
    picture,
    read_pictures,
)
from torch.utils.data import DataLoader, Dataset

from imgcls.errors import ImageError
from imgcls.storage import pixel_cache, pixel_pack
from imgcls.storage.pixel_cache import CacheRequest, PixelCache, cache_key


@pytest.mark.parametrize(
    "change",
    [lambda f: f.write_bytes(b"longer"), lambda f: os.utime(f, ns=(1, f.stat().st_mtime_ns + 1)), os.remove],
    ids=["size", "time", "gone"],
)
def test_cache_key_follows_file_and_settings(folder, tmp_path, change):
    file, cache = tmp_path / "photo.jpg", PixelCache(folder, LIMIT)
    file.write_bytes(b"short")
    (tmp_path / "link.jpg").symlink_to(file)
    before = cache_key(str(file), "settings")
    assert before == cache_key(str(file), "settings") == cache_key(str(tmp_path / "link.jpg"), "settings")
    assert before != cache_key(str(file), "other settings")
    cache.read([CacheRequest(before, lambda: picture(0))])
    change(file)
    (pixels,) = cache.read([CacheRequest(cache_key(str(file), "settings"), lambda: picture(1))])
    assert np.array_equal(pixels, picture(1))


def test_cache_key_of_another_version_differs(folder, monkeypatch):
    read_pictures(PixelCache(folder, LIMIT), [0])
    monkeypatch.setattr(pixel_cache, "VERSION", pixel_cache.VERSION + 1)
    assert read_pictures(PixelCache(folder, LIMIT), [0]) == [0]


def test_cache_key_is_that_of_earlier_versions():
    assert cache_key("picture", "settings").hex() == "09619813f9b6bb1d85bc4c4e1cbadae7"


def test_read_returns_the_stored_bits(folder):
    cache = PixelCache(folder, LIMIT)
    assert cache.count(map(key, range(9))) == 0
    assert read_pictures(cache, range(9)) == [*range(9)]
    reopened = PixelCache(folder, LIMIT)
    assert read_pictures(cache, [3, 1]) == read_pictures(reopened, [8, 2, 2]) == []
    assert reopened.count(map(key, range(12))) == 9
    assert reopened.shape(key(4)) == SHAPE
    with pytest.raises(KeyError):
        reopened.shape(key(9))


def test_read_keeps_shapes_and_returns_arrays_of_its_own(folder):
    images = [picture(0)[:7, ::3], picture(1).transpose(2, 0, 1), np.zeros((1, 1, 3), np.uint8)]
    PixelCache(folder, LIMIT).read([CacheRequest(key(i), lambda i=i: images[i]) for i in range(3)])
    stored = [CacheRequest(key(i), None) for i in range(3)]
    for pixels, expected in zip(PixelCache(folder, LIMIT).read(stored), images, strict=True):
        assert np.array_equal(pixels, expected)
        pixels[:] = 7
    assert np.array_equal(PixelCache(folder, LIMIT).read(stored)[0], images[0])


def test_read_computes_a_repeated_image_once(folder):
    assert read_pictures(PixelCache(folder, LIMIT), [2, 0, 2, 2]) == [0, 2]


def test_read_raises_what_make_raises_and_can_be_repeated(folder):
    def fail():
        raise ImageError("broken")

    cache = PixelCache(folder, LIMIT)
    requests = [CacheRequest(key(n), fail if n == 2 else lambda n=n: picture(n)) for n in range(6)]
    with pytest.raises(ImageError, match="broken"):
        cache.read(requests)
    assert set(read_pictures(cache, range(6))) >= {2}
    assert read_pictures(cache, range(6)) == []


def test_read_finds_images_in_many_packs(folder, monkeypatch):
    monkeypatch.setattr(pixel_cache, "PACK_BYTES", 2 * BYTES)
    assert read_pictures(PixelCache(folder, LIMIT), range(9)) == [*range(9)]
    assert len(list(folder.glob("*.pack"))) == 5
    assert read_pictures(PixelCache(folder, LIMIT), range(9)) == []


def test_read_without_a_folder_stores_nothing():
    cache = PixelCache()
    assert read_pictures(cache, range(3)) == read_pictures(cache, range(3)) == [0, 1, 2]
    assert cache.count([key(0)]) == 0


def read_in_new_cache(folder, numbers):
    return read_pictures(PixelCache(folder, LIMIT), numbers)


def test_read_shares_images_between_processes(folder):
    cache = PixelCache(folder, LIMIT)
    read_pictures(cache, range(5))
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as other:
        assert other.submit(read_in_new_cache, folder, range(8)).result() == [5, 6, 7]
    assert cache.count_added() == 8
    assert read_pictures(cache, range(8)) == []


def write_in_order(folder, numbers, start):
    cache = PixelCache(folder, LIMIT)
    start.wait(60)
    for number in numbers:
        read_pictures(cache, [number])


def test_read_in_two_processes_at_once_loses_nothing(folder, server):
    start, numbers = server.Barrier(2), range(150)
    orders = [*numbers], [*numbers][::-1]
    writers = [server.Process(target=write_in_order, args=(folder, order, start)) for order in orders]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert len(list(folder.glob("*.pack"))) == 2
    assert read_pictures(PixelCache(folder, LIMIT), numbers) == []


class CachedDataset(Dataset):
    def __init__(self, cache):
        self.cache = cache

    def __len__(self):
        return 24

    def __getitems__(self, numbers):
        requests = [CacheRequest(key(n), lambda n=n: picture(n)) for n in numbers]
        return [torch.from_numpy(pixels) for pixels in self.cache.read(requests)]


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker:UserWarning")  # on a machine with one core
@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_read_in_workers_gives_the_same_pixels_and_stores_them(folder, start_method):
    expected = torch.cat(list(DataLoader(CachedDataset(PixelCache()), batch_size=5, collate_fn=torch.stack)))
    cache = PixelCache(folder, LIMIT)
    read_pictures(cache, range(7))
    loader = DataLoader(
        CachedDataset(cache),
        batch_size=5,
        collate_fn=torch.stack,
        num_workers=2,
        multiprocessing_context=start_method,
        persistent_workers=True,
    )
    for _ in range(2):
        assert torch.equal(torch.cat(list(loader)), expected)
    assert cache.count(map(key, range(24))) == 24
    assert read_pictures(cache, range(24)) == []
    assert len(list(folder.glob("*.pack"))) == 3, "a pack has one writer"


def test_add_stores_only_while_there_is_room(folder, caplog):
    cache = PixelCache(folder, 3 * BYTES)
    for number in range(5):
        cache.add(key(number), picture(number))
    assert cache.count(map(key, range(5))) == 3
    assert not cache.is_full
    assert not caplog.messages
    assert np.array_equal(cache.get(key(1)), picture(1))
    assert cache.get(key(4)) is None


def test_read_stops_storing_at_the_limit_and_warns_once(folder, caplog):
    cache = open_earlier(folder, 5 * BYTES + 100)
    with caplog.at_level(logging.WARNING):
        assert [read_pictures(cache, [n]) for n in range(9)] == [[n] for n in range(9)]
        assert read_pictures(cache, range(9)) == [5, 6, 7, 8]
    (line,) = caplog.messages
    assert "the limit of 18 kB is reached (--cache_gb)" in line
    assert pack_bytes(folder) == 5 * BYTES
    assert read_pictures(open_earlier(folder, 5 * BYTES + 100), range(9)) == [5, 6, 7, 8]
    assert pack_bytes(folder) == 5 * BYTES


def test_read_in_several_caches_keeps_to_the_limit_of_all(folder):
    caches = [open_earlier(folder, 6 * BYTES) for _ in range(3)]
    for number in range(15):
        read_pictures(caches[number % 3], [number])
    assert 0 < pack_bytes(folder) <= 6 * BYTES


def test_read_evicts_the_least_recently_used_and_nothing_in_use(folder, caplog):
    for number, seconds in ((0, 300), (1, 200), (2, 100)):
        before = set(folder.iterdir()) if number else set()
        read_pictures(PixelCache(folder, LIMIT), [number])
        for file in set(folder.iterdir()) - before:
            os.utime(file, (time.time() - seconds,) * 2)
    cache = open_earlier(folder, 3 * BYTES)
    assert read_pictures(cache, [0]) == []
    read_pictures(cache, [3])
    assert [PixelCache(folder).count([key(n)]) for n in range(4)] == [1, 0, 1, 1]
    read_pictures(cache, [4])
    assert [PixelCache(folder).count([key(n)]) for n in range(5)] == [1, 0, 0, 1, 1]
    assert not caplog.messages
    read_pictures(cache, [5])
    assert "is reached (--cache_gb)" in caplog.text
    assert read_pictures(cache, range(6)) == [1, 2, 5]
    assert pack_bytes(folder) == 3 * BYTES


def test_read_leaves_packs_that_another_run_uses(folder, monkeypatch):
    seconds, clock, stopwatch = 10_000, time.time, time.monotonic
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: clock() - seconds)
        patch.setattr(time, "monotonic", lambda: stopwatch() - seconds)
        earlier = PixelCache(folder, 3 * BYTES)
        read_pictures(earlier, range(3))
    make_older(folder, seconds)
    later = open_earlier(folder, 3 * BYTES)
    assert read_pictures(earlier, range(3)) == []
    assert read_pictures(later, [3]) == [3]
    assert read_pictures(earlier, range(3)) == []


def test_read_leaves_own_packs_where_a_file_server_s_clock_is_behind(folder):
    cache = PixelCache(folder, 3 * BYTES)
    read_pictures(cache, range(3))
    make_older(folder, 3600)
    read_pictures(cache, [3])
    assert read_pictures(cache, range(4)) == [3]


def test_read_works_in_packs_whose_time_cannot_be_set(folder, monkeypatch):
    read_pictures(PixelCache(folder, LIMIT), range(3))

    def refuse(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")  # another user's, in a shared folder

    monkeypatch.setattr(pixel_pack.os, "utime", refuse)
    assert read_pictures(PixelCache(folder, LIMIT), range(3)) == []


def test_read_works_without_a_writable_folder_and_warns_once(folder, caplog):
    folder.write_text("a file in its place")
    cache = PixelCache(folder, LIMIT)
    with caplog.at_level(logging.WARNING):
        assert read_pictures(cache, range(3)) == read_pictures(cache, range(3)) == [0, 1, 2]
    (line,) = caplog.messages
    assert f"File exists in {folder}" in line
