"""Pixels that are kept: found again by anyone, never wrong whatever befell their files, within their room."""

import errno
import io
import logging
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from imgcls.errors import ImageError, OptionError
from imgcls.storage import pixel_cache, pixel_location
from imgcls.storage.pixel_cache import CacheRequest, PixelCache, cache_key
from imgcls.storage.pixel_location import open_pixel_cache

SHAPE = (40, 30, 3)
BYTES = 40 * 30 * 3
ROOM = 10**9
TICK = 0.02  # s; a file's time comes from the kernel's coarse clock, up to 10 ms behind time.time()


def picture(number):
    return np.random.default_rng(number).integers(0, 256, SHAPE, np.uint8)


def key(number):
    return cache_key(f"picture {number}", "as drawn")


def served(kept, numbers):
    """Asks for these pictures, all of which must be right; the numbers of those that had to be made, sorted."""
    made = []

    def maker(number):
        def make():
            made.append(number)
            return picture(number)

        return make

    for number, found in zip(numbers, kept.read([CacheRequest(key(n), maker(n)) for n in numbers]), strict=True):
        assert found.dtype == np.uint8
        is_right = np.array_equal(found, picture(number))
        assert is_right, f"picture {number}"
    return sorted(made)


def written(folder, count):
    """One pack of pictures 0, 1, 2, ..., in this order: the pack and its index."""
    kept = PixelCache(folder, ROOM)
    for number in range(count):
        served(kept, [number])
    (pack,), (index,) = folder.glob("*.pack"), folder.glob("*.index")
    return pack, index


def aged(folder, seconds):
    for file in folder.iterdir():
        os.utime(file, (time.time() - seconds,) * 2)


def begun(folder, most_bytes):
    """Pixels, so long ago that whatever is done to files from now on has a later time."""
    kept = PixelCache(folder, most_bytes)
    time.sleep(TICK)
    return kept


def pack_bytes(folder):
    return sum(pack.stat().st_size for pack in folder.glob("*.pack"))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "pixels"


@pytest.fixture(scope="module")
def server():
    """Makes processes that have nothing of this one, without importing torch for each."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["imgcls.storage.pixel_cache"])
    return context


# Found again


def test_what_is_kept_is_found_again_bit_for_bit(folder):
    kept = PixelCache(folder, ROOM)
    assert kept.holds(map(key, range(9))) == 0
    assert served(kept, range(9)) == [*range(9)]
    again = PixelCache(folder, ROOM)
    assert served(kept, [3, 1]) == served(again, [8, 2, 2]) == []
    assert again.holds(map(key, range(12))) == 9
    assert again.shape(key(4)) == SHAPE
    with pytest.raises(KeyError):
        again.shape(key(9))


def test_shapes_and_layouts_stay_what_they_are(folder):
    shown = [picture(0)[:7, ::3], picture(1).transpose(2, 0, 1), np.zeros((1, 1, 3), np.uint8)]
    wanted = [CacheRequest(key(i), lambda i=i: shown[i]) for i in range(3)]
    PixelCache(folder, ROOM).read(wanted)
    for found, was in zip(
        PixelCache(folder, ROOM).read([CacheRequest(w.key, None) for w in wanted]), shown, strict=True
    ):
        assert np.array_equal(found, was)
        found[:] = 7  # an array of its own
    assert np.array_equal(PixelCache(folder, ROOM).read([CacheRequest(key(0), None)])[0], shown[0])


def test_an_image_that_is_wanted_twice_at_once_is_made_once(folder):
    assert served(PixelCache(folder, ROOM), [2, 0, 2, 2]) == [0, 2]


def test_many_packs_are_as_good_as_one(folder, monkeypatch):
    monkeypatch.setattr(pixel_cache, "PACK_BYTES", 2 * BYTES)
    assert served(PixelCache(folder, ROOM), range(9)) == [*range(9)]
    assert len(list(folder.glob("*.pack"))) == 5
    assert served(PixelCache(folder, ROOM), range(9)) == []


def test_without_a_folder_nothing_is_kept():
    kept = PixelCache()
    assert served(kept, range(3)) == served(kept, range(3)) == [0, 1, 2]
    assert kept.holds([key(0)]) == 0


def elsewhere(folder, numbers):
    return served(PixelCache(folder, ROOM), numbers)


def test_another_process_finds_what_is_kept_and_is_found(folder):
    kept = PixelCache(folder, ROOM)
    served(kept, range(5))
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as other:
        assert other.submit(elsewhere, folder, range(8)).result() == [5, 6, 7]
    assert served(kept, range(8)) == []


@pytest.mark.parametrize(
    "change",
    [lambda f: f.write_bytes(b"longer"), lambda f: os.utime(f, ns=(1, f.stat().st_mtime_ns + 1)), os.remove],
    ids=["size", "time", "gone"],
)
def test_a_file_that_changed_is_not_found(folder, tmp_path, change):
    file, kept = tmp_path / "photo.jpg", PixelCache(folder, ROOM)
    file.write_bytes(b"short")
    (tmp_path / "link.jpg").symlink_to(file)
    before = cache_key(str(file), "as drawn")
    assert before == cache_key(str(file), "as drawn") == cache_key(str(tmp_path / "link.jpg"), "as drawn")
    assert before != cache_key(str(file), "otherwise")
    kept.read([CacheRequest(before, lambda: picture(0))])
    change(file)
    assert np.array_equal(
        kept.read([CacheRequest(cache_key(str(file), "as drawn"), lambda: picture(1))])[0], picture(1)
    )


def test_what_another_version_kept_is_not_read(folder, monkeypatch):
    served(PixelCache(folder, ROOM), [0])
    monkeypatch.setattr(pixel_cache, "VERSION", pixel_cache.VERSION + 1)
    assert served(PixelCache(folder, ROOM), [0]) == [0]


# Several at once, and kills


def write_beside(folder, numbers, start):
    kept = PixelCache(folder, ROOM)
    start.wait(60)
    for number in numbers:
        served(kept, [number])


def test_two_processes_that_write_at_once_lose_nothing(folder, server):
    start, numbers = server.Barrier(2), range(150)
    orders = [*numbers], [*numbers][::-1]
    writers = [server.Process(target=write_beside, args=(folder, order, start)) for order in orders]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert len(list(folder.glob("*.pack"))) == 2
    assert served(PixelCache(folder, ROOM), numbers) == []


def enlarged(number):
    return np.tile(picture(number), (8, 8, 1))


def write_until_killed(folder, numbers, told):
    kept = PixelCache(folder, ROOM)
    large = [enlarged(n) for n in numbers]
    for number, shown in zip(numbers, large, strict=True):
        kept.read([CacheRequest(key(number), lambda shown=shown: shown)])
        told.send(number)
    signal.pause()


def left_by(folder, numbers):
    """The numbers of the enlarged pictures that had to be made; all must be right."""
    made = []
    wanted = [CacheRequest(key(n), lambda n=n: made.append(n) or enlarged(n)) for n in numbers]
    for number, found in zip(numbers, PixelCache(folder, ROOM).read(wanted), strict=True):
        is_right = np.array_equal(found, enlarged(number))
        assert is_right, f"picture {number}"
    return made


def test_a_writer_that_is_killed_leaves_right_pixels_or_none(tmp_path, server):
    draw, numbers, lost = random.Random(0), range(30), 0
    for turn in range(12):
        folder, (hears, told) = tmp_path / str(turn), server.Pipe(duplex=False)
        writer = server.Process(target=write_until_killed, args=(folder, numbers, told))
        writer.start()
        last, until = -1, draw.randrange(8)
        while last < until:
            last = hears.recv()
        time.sleep(draw.uniform(0, 0.002))
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        made = left_by(folder, numbers)
        assert min(made, default=len(numbers)) > last, "what was said to be done was lost"
        assert left_by(folder, numbers) == []
        lost += len(made)
        for end in (hears, told):
            end.close()
    assert lost, "each writer was done before it was killed: nothing was tried"


def test_whatever_part_of_the_files_reached_the_disk_the_pixels_are_right(folder, tmp_path):
    pack, index = written(folder, 6)
    whole, entries = pack.read_bytes(), index.read_bytes()
    draw = random.Random(1)
    for turn in range(40):
        left = tmp_path / str(turn)
        left.mkdir()
        ends = draw.randint(0, len(whole)), draw.randint(0, len(entries))
        (left / pack.name).write_bytes(whole[: ends[0]])
        (left / index.name).write_bytes(entries[: ends[1]])
        found = min(ends[0] // BYTES, ends[1] // pixel_cache.ENTRY.itemsize)
        assert served(PixelCache(left, ROOM), range(6)) == [*range(found, 6)], ends


# Damage


def overwrite(file, at, content):
    with open(file, "r+b") as opened_file:
        opened_file.seek(at)
        opened_file.write(content)


def reshape_second(index, shape):
    """Write another shape into the entry of picture 1."""
    place = pixel_cache.ENTRY.itemsize + pixel_cache.ENTRY.fields["shape"][1]
    overwrite(index, place, np.array(shape, pixel_cache.ENTRY["shape"].base).tobytes())


# Each with the pictures that have to be made anew at least, of 9 in one pack.
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


@pytest.mark.parametrize("first", [True, False], ids=["found first", "found last"])
@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_damaged_is_made_anew_once(folder, monkeypatch, name, first):
    damage, lost = DAMAGES[name]
    files = [file.rename(folder / f"{'0' * 32}{file.suffix}") for file in written(folder, 9)]
    glob = Path.glob  # the order in which a folder's files are found is not ours to choose
    monkeypatch.setattr(Path, "glob", lambda *arguments: sorted(glob(*arguments), reverse=not first))
    damage(folder, *files)
    made = served(PixelCache(folder, ROOM), range(9))
    assert made == [] if not lost else set(made) >= set(lost)
    assert served(PixelCache(folder, ROOM), range(9)) == []


@pytest.mark.parametrize("name", ["cut short", "pack removed", "all removed"])
def test_damage_under_a_run_never_gives_it_another_images_pixels(folder, name):
    kept = PixelCache(folder, ROOM)
    for number in range(9):
        served(kept, [number])
    (pack,), (index,) = folder.glob("*.pack"), folder.glob("*.index")
    DAMAGES[name][0](folder, pack, index)
    for number in (5, 7, 0, 1, 2, 3, 4, 5, 6, 7, 8):  # what is made anew must not take the place of another
        served(kept, [number])
    assert served(kept, range(9)) == served(PixelCache(folder, ROOM), range(9)) == []


def test_packs_whose_time_cannot_be_set_are_read(folder, monkeypatch):
    served(PixelCache(folder, ROOM), range(3))

    def refuse(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")  # another user's, in a shared folder

    monkeypatch.setattr(pixel_cache.os, "utime", refuse)
    assert served(PixelCache(folder, ROOM), range(3)) == []


# Room


def test_no_more_is_kept_than_may_be_and_it_is_said_once(folder, caplog):
    kept = begun(folder, 5 * BYTES + 100)
    with caplog.at_level(logging.WARNING):
        assert [served(kept, [n]) for n in range(9)] == [[n] for n in range(9)]
        assert served(kept, range(9)) == [5, 6, 7, 8]
    (line,) = caplog.messages
    assert "18 kB are full (--cache_gb)" in line
    assert pack_bytes(folder) == 5 * BYTES
    assert served(begun(folder, 5 * BYTES + 100), range(9)) == [5, 6, 7, 8]
    assert pack_bytes(folder) == 5 * BYTES


def test_several_writers_keep_to_the_room_together(folder):
    writers = [begun(folder, 6 * BYTES) for _ in range(3)]
    for number in range(15):
        served(writers[number % 3], [number])
    assert 0 < pack_bytes(folder) <= 6 * BYTES


def test_what_was_used_least_recently_gives_way_and_what_is_used_stays(folder, caplog):
    for number, seconds in ((0, 300), (1, 200), (2, 100)):
        before = set(folder.iterdir()) if number else set()
        served(PixelCache(folder, ROOM), [number])
        for file in set(folder.iterdir()) - before:
            os.utime(file, (time.time() - seconds,) * 2)
    kept = begun(folder, 3 * BYTES)
    assert served(kept, [0]) == []
    served(kept, [3])
    assert [PixelCache(folder).holds([key(n)]) for n in range(4)] == [1, 0, 1, 1]
    served(kept, [4])
    assert [PixelCache(folder).holds([key(n)]) for n in range(5)] == [1, 0, 0, 1, 1]
    assert not caplog.messages
    served(kept, [5])
    assert "are full (--cache_gb)" in caplog.text
    assert served(kept, range(6)) == [1, 2, 5]
    assert pack_bytes(folder) == 3 * BYTES


def test_packs_that_another_run_is_using_stay(folder, monkeypatch):
    hours, clock, stopwatch = 10_000, time.time, time.monotonic
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: clock() - hours)
        patch.setattr(time, "monotonic", lambda: stopwatch() - hours)
        longer = PixelCache(folder, 3 * BYTES)
        served(longer, range(3))
    aged(folder, hours)
    later = begun(folder, 3 * BYTES)
    assert served(longer, range(3)) == []
    assert served(later, [3]) == [3]
    assert served(longer, range(3)) == []


def test_own_packs_stay_where_a_file_servers_clock_is_behind(folder):
    kept = PixelCache(folder, 3 * BYTES)
    served(kept, range(3))
    aged(folder, 3600)
    served(kept, [3])
    assert served(kept, range(4)) == [3]


# Where nothing can be written


def test_a_folder_that_cannot_be_written_is_done_without_and_said_once(folder, caplog):
    folder.write_text("a file in its place")
    kept = PixelCache(folder, ROOM)
    with caplog.at_level(logging.WARNING):
        assert served(kept, range(3)) == served(kept, range(3)) == [0, 1, 2]
    (line,) = caplog.messages
    assert f"File exists in {folder}" in line


class FullDisk(io.FileIO):
    def write(self, content):
        super().write(bytes(content)[:20])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("suffix", [".pack", ".index"])
def test_a_full_disk_is_done_without_and_said_once(folder, caplog, monkeypatch, suffix):
    kept = PixelCache(folder, ROOM)
    served(kept, range(2))

    def full(path, mode, **options):
        is_full = mode == "ab" and Path(path).suffix == suffix
        return FullDisk(path, "ab") if is_full else open(path, mode, **options)

    monkeypatch.setattr(pixel_cache, "open", full, raising=False)
    with caplog.at_level(logging.WARNING):
        assert served(kept, range(5)) == served(kept, range(5)) == [2, 3, 4]
    (line,) = caplog.messages
    assert f"No space left on device in {folder}" in line
    monkeypatch.undo()
    assert served(PixelCache(folder, ROOM), range(5)) == [2, 3, 4]


def test_what_may_be_of_use_later_takes_no_room_from_what_is_needed(folder, caplog):
    kept = PixelCache(folder, picture(0).nbytes * 3)
    for number in range(5):
        kept.keep(key(number), picture(number))
    assert kept.holds(map(key, range(5))) == 3
    assert not kept.is_full
    assert not caplog.messages
    assert np.array_equal(kept.get(key(1)), picture(1))
    assert kept.get(key(4)) is None


# Where --cache says


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and an empty folder in place of the memory's."""
    memory = tmp_path / "memory"
    memory.mkdir()
    monkeypatch.setenv("IMGCLS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pixel_location, "MEMORY", memory)
    return SimpleNamespace(root=tmp_path / "cache", memory=memory)


def test_each_kind_of_cache_lies_where_it_should(cache, monkeypatch):
    assert open_pixel_cache("off").folder is None
    assert open_pixel_cache("auto").folder == open_pixel_cache("disk").folder == cache.root / "pixels"
    ram = open_pixel_cache("ram")
    assert ram.folder.parent == cache.memory
    assert served(ram, [0]) == [0]
    assert served(open_pixel_cache("ram"), [0]) == []
    assert served(open_pixel_cache("auto"), [0]) == [0]


def test_the_room_is_a_share_of_what_is_free_unless_it_is_given(cache, monkeypatch):
    served(open_pixel_cache("disk"), range(4))
    monkeypatch.setattr(pixel_location.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    monkeypatch.setattr(pixel_location.psutil, "virtual_memory", lambda: SimpleNamespace(available=4 * 10**5))
    assert open_pixel_cache("disk").most_bytes == round(0.3 * (10**6 + 4 * BYTES))
    assert open_pixel_cache("auto").folder.parent == cache.memory  # hardly any disk is left
    monkeypatch.setattr(pixel_location, "LEAST_BYTES", 1000)
    assert open_pixel_cache("auto").most_bytes == open_pixel_cache("disk").most_bytes
    assert open_pixel_cache("ram").most_bytes == 2 * 10**5
    assert open_pixel_cache("auto", 0.0005).most_bytes == 500_000
    assert open_pixel_cache("disk", 3.0).most_bytes == 10**6 + 4 * BYTES
    assert open_pixel_cache("ram", 3.0).most_bytes == 4 * 10**5


@pytest.mark.parametrize("at", ["cache", "cache/pixels"])
def test_a_cache_that_cannot_be_written_is_an_error_or_memory(cache, tmp_path, caplog, at):
    (tmp_path / at).parent.mkdir(exist_ok=True)
    (tmp_path / at).write_text("a file in the folder's place")
    with pytest.raises(OptionError, match=r"Expected a folder for --cache disk .*pixels: .*IMGCLS_CACHE.*--cache ram"):
        open_pixel_cache("disk")
    assert not caplog.messages
    with caplog.at_level(logging.WARNING):
        kept = open_pixel_cache("auto")
    (line,) = caplog.messages
    assert line.startswith(f"cache: in memory, for this run alone: {cache.root / 'pixels'}: ")
    assert kept.folder.parent == cache.memory
    assert served(kept, [0]) == [0]
    assert served(kept, [0]) == []


@pytest.mark.parametrize("kind", ["auto", "ram"])
def test_where_memory_is_no_folder_the_place_is_named(cache, tmp_path, monkeypatch, caplog, kind):
    (tmp_path / "cache").write_text("a file in the folder's place")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr(pixel_location, "MEMORY", tmp_path / "none")
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    monkeypatch.setattr(pixel_location.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    with caplog.at_level(logging.WARNING):
        kept = open_pixel_cache(kind)
    (line,) = caplog.messages
    assert line.startswith(f"cache: in {elsewhere}, for this run alone: ")
    assert kept.folder.parent == elsewhere
    assert kept.most_bytes == 3 * 10**5  # as of a disk


def keep_in_memory(told):
    kept = open_pixel_cache("ram")
    served(kept, range(3))
    told.send(kept.folder)
    signal.pause()


def test_what_a_killed_run_left_in_memory_is_removed_by_the_next(server):
    hears, told = server.Pipe(duplex=False)
    run = server.Process(target=keep_in_memory, args=(told,))
    run.start()
    left = hears.recv()
    open_pixel_cache("ram")
    assert list(left.glob("*.pack")), "a living run's were removed"
    os.kill(run.pid, signal.SIGKILL)
    run.join()
    assert left.exists()
    open_pixel_cache("ram")
    assert not left.exists()


LAUNCH = """
import os, sys
import numpy as np
from imgcls.storage.pixel_location import open_pixel_cache
from imgcls.storage.pixel_cache import CacheRequest

def keep():
    made = []
    kept = open_pixel_cache("ram")
    kept.read([CacheRequest(b"0" * 16, lambda: made.append(1) or np.zeros((2, 2, 3), np.uint8))])
    return kept, len(made)

def forked(rank, work):
    child = os.fork()
    if child == 0:
        os.environ |= {"LOCAL_RANK": str(rank), "RANK": str(rank)}
        work()
        sys.exit()
    return child

def first():
    kept, made = keep()
    os.write(begun[1], b"1")
    os.read(other_left[0], 1)
    print(made, len(list(kept.folder.glob("*"))), flush=True)

# A launch of two processes: the second ends while the first still works.
os.environ |= {"LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2"}
begun, other_left = os.pipe(), os.pipe()
one = forked(0, first)
os.read(begun[0], 1)
two = forked(1, lambda: print(keep()[1], end=" ", flush=True))
os.waitpid(two, 0)
os.write(other_left[1], b"1")
os.waitpid(one, 0)

# A process alone: a copy of it, such as a worker, ends while it still works.
os.environ["LOCAL_WORLD_SIZE"] = "1"
kept, made = keep()
os.waitpid(forked(0, lambda: None), 0)
print(made, len(list(kept.folder.glob("*"))), kept.folder)
"""


def test_memory_is_shared_within_a_launch_and_given_back_by_the_last():
    done = subprocess.run([sys.executable, "-c", LAUNCH], capture_output=True, text=True, timeout=60)
    assert not done.stderr
    launch, alone = done.stdout.splitlines()
    assert launch == "0 1 2"  # the second found what the first had made; pack and index stay as long as it works
    *alone, folder = alone.split()
    assert alone == ["1", "2"]
    assert folder.endswith(tuple("0123456789"))
    assert not Path(folder).exists()


def test_clearing_removes_what_was_kept_and_nothing_else(cache, caplog):
    pixel_location.clear_cache()
    served(open_pixel_cache("disk"), range(400))
    for name in ("features/a.npy", "copies/b.npy", "inspections.sqlite", "digits/c.png"):
        (cache.root / name).parent.mkdir(exist_ok=True)
        (cache.root / name).write_bytes(bytes(10**6))
    with caplog.at_level(logging.INFO):
        pixel_location.clear_cache()
    assert [file.name for file in cache.root.rglob("*") if file.is_file()] == ["c.png"]
    assert f"cache: 4 MB removed from {cache.root}" in caplog.text
    assert served(open_pixel_cache("disk"), range(3)) == [0, 1, 2]


# Workers and threads


class Shown(Dataset):
    def __init__(self, kept):
        self.kept = kept

    def __len__(self):
        return 24

    def __getitems__(self, numbers):
        wanted = [CacheRequest(key(n), lambda n=n: picture(n)) for n in numbers]
        return [torch.from_numpy(found) for found in self.kept.read(wanted)]


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker:UserWarning")  # on a machine with one core
@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_workers_give_the_same_pixels_and_keep_them(folder, how):
    plain = torch.cat(list(DataLoader(Shown(PixelCache()), batch_size=5, collate_fn=torch.stack)))
    kept = PixelCache(folder, ROOM)
    served(kept, range(7))
    loader = DataLoader(
        Shown(kept), batch_size=5, collate_fn=torch.stack, num_workers=2, multiprocessing_context=how,
        persistent_workers=True,
    )  # fmt: skip
    for _ in range(2):
        assert torch.equal(torch.cat(list(loader)), plain)
    assert kept.holds(map(key, range(24))) == 24
    assert served(kept, range(24)) == []
    assert len(list(folder.glob("*.pack"))) == 3, "a pack has one writer"


@pytest.fixture
def threads(monkeypatch):
    """Pixels that work in four threads, in a process that gives torch three."""
    monkeypatch.setattr(pixel_cache.cpu, "available_cores", lambda: 4)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield PixelCache()
    torch.set_num_threads(before)


def test_work_is_done_side_by_side_and_its_results_keep_their_order(threads):
    together = threading.Barrier(4, timeout=30)

    def piece(i):
        together.wait()
        time.sleep(0.01 * (4 - i))
        return i

    assert threads.each([lambda i=i: piece(i) for i in range(4)]) == [0, 1, 2, 3]
    assert threads.each([]) == []


def test_an_image_that_cannot_be_made_is_said_and_the_rest_goes_on(threads, folder):
    def broken():
        raise ImageError("broken")

    threads.folder, threads.most_bytes, threads.is_full = folder, ROOM, False
    wanted = [CacheRequest(key(n), broken if n == 2 else lambda n=n: picture(n)) for n in range(6)]
    with pytest.raises(ImageError, match="broken"):
        threads.read(wanted)
    with pytest.raises(ImageError, match="broken"):
        threads.each([w.make for w in wanted])
    assert set(served(threads, range(6))) >= {2}
    assert served(threads, range(6)) == []


def test_torchs_number_of_threads_is_untouched(threads):
    assert threads.each([torch.get_num_threads] * 8) == [1] * 8
    assert torch.get_num_threads() == 3
    later = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [3]
