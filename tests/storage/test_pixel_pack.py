"""Packs that were cut short, damaged or left by a killed writer: right pixels or none."""

import errno
import io
import logging
import os
import random
import signal
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from cached_pictures import BYTES, LIMIT, SHAPE, key, picture, read_pictures, write_pack

from imgcls.storage import pixel_pack
from imgcls.storage.pixel_cache import CacheRequest, PixelCache
from imgcls.storage.pixel_pack import ENTRY, PixelPack


def enlarged(number):
    return np.tile(picture(number), (8, 8, 1))


def write_until_killed(folder, numbers, sender):
    cache = PixelCache(folder, LIMIT)
    images = [enlarged(n) for n in numbers]
    for number, pixels in zip(numbers, images, strict=True):
        cache.read([CacheRequest(key(number), lambda pixels=pixels: pixels)])
        sender.send(number)
    signal.pause()


def test_append_that_is_killed_leaves_right_pixels_or_none(tmp_path, server):
    rng, numbers, lost = random.Random(0), range(30), 0
    for turn in range(12):
        folder, (receiver, sender) = tmp_path / str(turn), server.Pipe(duplex=False)
        writer = server.Process(target=write_until_killed, args=(folder, numbers, sender))
        writer.start()
        last, until = -1, rng.randrange(8)
        while last < until:
            last = receiver.recv()
        time.sleep(rng.uniform(0, 0.002))
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        computed = read_pictures(PixelCache(folder, LIMIT), numbers, enlarged)
        assert min(computed, default=len(numbers)) > last, "an image that was reported as stored was lost"
        assert read_pictures(PixelCache(folder, LIMIT), numbers, enlarged) == []
        lost += len(computed)
        for end in (receiver, sender):
            end.close()
    assert lost, "each writer had finished before it was killed: nothing was tested"


class FullDisk(io.FileIO):
    def write(self, content):
        super().write(bytes(content)[:20])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("suffix", [".pack", ".index"])
def test_append_on_a_full_disk_ends_storing_with_one_warning(folder, caplog, monkeypatch, suffix):
    cache = PixelCache(folder, LIMIT)
    read_pictures(cache, range(2))

    def open_on_full_disk(path, mode, **options):
        is_full = mode == "ab" and Path(path).suffix == suffix
        return FullDisk(path, "ab") if is_full else open(path, mode, **options)

    monkeypatch.setattr(pixel_pack, "open", open_on_full_disk, raising=False)
    with caplog.at_level(logging.WARNING):
        assert read_pictures(cache, range(5)) == read_pictures(cache, range(5)) == [2, 3, 4]
    (line,) = caplog.messages
    assert f"No space left on device in {folder}" in line
    monkeypatch.undo()
    assert read_pictures(PixelCache(folder, LIMIT), range(5)) == [2, 3, 4]


def test_append_writes_the_format_that_earlier_versions_read(folder):
    pack, pixels = PixelPack.create(folder), picture(0)
    for number in range(2):
        pack.append(bytes([number]) * 16, pixels)
    assert pack.path.read_bytes() == pixels.tobytes() * 2
    checksum = zlib.crc32(pixels.tobytes(), zlib.crc32(b"(40, 30, 3)"))
    entries = [struct.pack("<16sQ4I", bytes([i]) * 16, i * BYTES, 40, 30, 3, checksum) for i in range(2)]
    assert pack.index.read_bytes() == b"".join(entries)


def test_new_entries_returns_each_entry_once(folder):
    writer = PixelPack.create(folder)
    reader = PixelPack(writer.path)
    assert reader.new_entries() == []
    for number in range(2):
        writer.append(key(number), picture(number))
    assert [(k, entry.offset, entry.shape) for k, entry in reader.new_entries()] == [
        (key(0), 0, SHAPE),
        (key(1), BYTES, SHAPE),
    ]
    assert reader.new_entries() == []
    writer.append(key(2), picture(2))
    ((third, entry),) = reader.new_entries()
    assert third == key(2)
    assert np.array_equal(reader.read(entry, verify=True), picture(2))
    writer.remove()
    assert reader.read(entry, verify=True) is None
    assert list(folder.iterdir()) == []


def test_read_of_partly_written_files_gives_right_pixels(folder, tmp_path):
    pack, index = write_pack(folder, 6)
    pixels, entries = pack.read_bytes(), index.read_bytes()
    rng = random.Random(1)
    for turn in range(40):
        copy = tmp_path / str(turn)
        copy.mkdir()
        ends = rng.randint(0, len(pixels)), rng.randint(0, len(entries))
        (copy / pack.name).write_bytes(pixels[: ends[0]])
        (copy / index.name).write_bytes(entries[: ends[1]])
        complete = min(ends[0] // BYTES, ends[1] // ENTRY.itemsize)
        assert read_pictures(PixelCache(copy, LIMIT), range(6)) == [*range(complete, 6)], ends


def overwrite(file, offset, content):
    with open(file, "r+b") as opened_file:
        opened_file.seek(offset)
        opened_file.write(content)


def reshape_second(index, shape):
    """Write another shape into the entry of picture 1."""
    offset = ENTRY.itemsize + ENTRY.fields["shape"][1]
    overwrite(index, offset, np.array(shape, ENTRY["shape"].base).tobytes())


# Each with the pictures that are lost at least, of 9 in one pack.
DAMAGES = {
    "cut short": (lambda _, pack, index: os.truncate(pack, 4 * BYTES + 1), range(4, 9)),
    "empty": (lambda _, pack, index: os.truncate(pack, 0), range(9)),
    "garbled": (lambda _, pack, index: overwrite(pack, 3 * BYTES + 99, b"\0" * BYTES), [3, 4]),
    "half an entry": (lambda _, pack, index: os.truncate(index, index.stat().st_size - 7), [8]),
    "half an entry more": (lambda _, pack, index: overwrite(index, index.stat().st_size, b"\x17" * 9), []),
    "zeros after a power cut": (lambda _, pack, index: overwrite(index, index.stat().st_size, bytes(400)), []),
    "an impossible shape": (lambda _, pack, index: reshape_second(index, (2**32 - 1,) * 3), [1]),
    "another shape": (lambda _, pack, index: reshape_second(index, (30, 40, 3)), [1]),
    "pack removed": (lambda _, pack, index: pack.unlink(), range(9)),
    "index removed": (lambda _, pack, index: index.unlink(), range(9)),
    "all removed": (lambda folder, *_: [file.unlink() for file in folder.iterdir()], range(9)),
}


@pytest.mark.parametrize("first", [True, False], ids=["listed first", "listed last"])
@pytest.mark.parametrize("name", DAMAGES)
def test_read_of_damaged_files_computes_lost_images_once(folder, monkeypatch, name, first):
    damage, lost = DAMAGES[name]
    files = [file.rename(folder / f"{'0' * 32}{file.suffix}") for file in write_pack(folder, 9)]
    glob = Path.glob  # patched, since the order in which a folder's files are listed depends on the file system
    monkeypatch.setattr(Path, "glob", lambda *arguments: sorted(glob(*arguments), reverse=not first))
    damage(folder, *files)
    computed = read_pictures(PixelCache(folder, LIMIT), range(9))
    assert computed == [] if not lost else set(computed) >= set(lost)
    assert read_pictures(PixelCache(folder, LIMIT), range(9)) == []


@pytest.mark.parametrize("name", ["cut short", "pack removed", "all removed"])
def test_read_never_gives_another_image_s_pixels_after_damage_during_a_run(folder, name):
    cache = PixelCache(folder, LIMIT)
    for number in range(9):
        read_pictures(cache, [number])
    (pack,), (index,) = folder.glob("*.pack"), folder.glob("*.index")
    DAMAGES[name][0](folder, pack, index)
    for number in (5, 7, 0, 1, 2, 3, 4, 5, 6, 7, 8):  # new pixels must not be written over those of another image
        read_pictures(cache, [number])
    assert read_pictures(cache, range(9)) == read_pictures(PixelCache(folder, LIMIT), range(9)) == []
