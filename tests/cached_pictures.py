"""Pictures that a pixel cache stores, for the tests of the cache, its packs and its location."""

import os
import time

import numpy as np

from imgcls.storage.pixel_cache import CacheRequest, PixelCache, cache_key

SHAPE = (40, 30, 3)
BYTES = 40 * 30 * 3
LIMIT = 10**9
TICK_S = 0.02  # a file's time comes from the kernel's coarse clock, up to 10 ms behind time.time()


def picture(number):
    return np.random.default_rng(number).integers(0, 256, SHAPE, np.uint8)


def key(number):
    return cache_key(f"picture {number}", "settings")


def read_pictures(cache, numbers, make=picture):
    """Read these pictures, all of which must be right; returns the numbers of those that were computed, sorted."""
    computed = []

    def maker(number):
        def compute():
            computed.append(number)
            return make(number)

        return compute

    images = cache.read([CacheRequest(key(number), maker(number)) for number in numbers])
    for number, pixels in zip(numbers, images, strict=True):
        assert pixels.dtype == np.uint8
        is_right = np.array_equal(pixels, make(number))
        assert is_right, f"picture {number}"
    return sorted(computed)


def write_pack(folder, count):
    """Write pictures 0, 1, 2, ... to one pack, in this order; returns the pack and its index."""
    cache = PixelCache(folder, LIMIT)
    for number in range(count):
        read_pictures(cache, [number])
    (pack,), (index,) = folder.glob("*.pack"), folder.glob("*.index")
    return pack, index


def make_older(folder, seconds):
    """Set the times of a folder's files to so many seconds ago."""
    for file in folder.iterdir():
        os.utime(file, (time.time() - seconds,) * 2)


def open_earlier(folder, most_bytes):
    """A cache that was opened long enough ago that all later changes of files have a later time."""
    cache = PixelCache(folder, most_bytes)
    time.sleep(TICK_S)
    return cache


def pack_bytes(folder):
    return sum(pack.stat().st_size for pack in folder.glob("*.pack"))
