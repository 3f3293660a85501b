"""Every fault that is planted is named, and nothing else; sound sets are left in peace."""

import os
import re
from collections import defaultdict

import faults
import numpy as np
import pytest
from drawings import photo
from PIL import Image
from planted import plant

from imgcls.audit import audit, file_checks, issues, screening
from imgcls.audit.image_stats import RECORD
from imgcls.data import image_folder
from imgcls.data.listing import ImageFile, Listing


def checked(root):
    """The audit of a folder and its problems."""
    listing = image_folder.scan_image_folder(root, strict=False)
    keys = listing.paths()
    audited = audit.run_audit(listing.files, keys, keys.__getitem__, show_progress=False)
    return audited, screening.find_issues(listing, audited)


def named(found):
    """code -> files."""
    files = defaultdict(set)
    for problem in found:
        files[problem.code].update(problem.files)
    return files


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """(code -> files to be named, kind of copy -> pairs, the audit, its problems) of the planted folder."""
    root = tmp_path_factory.mktemp("faults")
    return *faults.pictures(root), *checked(root)


def test_every_fault_is_named_and_nothing_else(planted):
    expected, _, audited, found = planted
    assert len(audited) >= 300
    assert all(len(files) >= 2 for files in expected.values())
    assert named(found).keys() - expected.keys() == {"imbalance"}  # tiny classes beside large ones
    for code, files in expected.items():
        assert named(found)[code] == files, code


def test_copies_land_in_one_group_and_others_do_not(planted):
    _, pairs, audited, _ = planted
    group, at = audited.together(), {file.path: i for i, file in enumerate(audited.files)}
    for kind, of_kind in pairs.items():
        assert np.mean([group[at[a]] == group[at[b]] for a, b in of_kind]) >= 0.95, kind
    sound = [group[i] for path, i in at.items() if "sound" in path]
    assert len(sound) == len(set(sound)) == faults.SOUND


def test_each_problem_says_what_to_do(planted):
    for problem in planted[3]:
        assert problem.severity in issues.SEVERITIES
        assert problem.count > 0
        assert not re.search(r"\b1 \w+s\b", problem.message)
        assert problem.advice.endswith((".", "?"))
        assert set(problem.row()) == {"code", "severity", "count", "files", "message", "advice", "groups"}


def test_what_is_left_out_of_training(planted):
    _, _, audited, _ = planted
    left_out = {audited.files[i].path: reason for i, reason in audited.excluded.items()}
    assert left_out["cat/torn0.jpg"] == left_out["dog/torn0.jpg"] == "the same file under several classes: cat, dog"
    same = ["bird/same1 copy 2.jpg", "bird/same1 copy.jpg", "bird/same1.jpg"]
    assert [left_out.get(path) for path in same] == [None, *["the same file as bird/same1 copy 2.jpg"] * 2]
    assert "bird/split0.jpg" not in left_out  # which class is right, a person has to say
    assert "cat/cut.jpg" in left_out
    assert not any("sound" in path for path in left_out)


def test_splits_that_share_pictures_or_differ_in_classes(tmp_path):
    expected = faults.splits(tmp_path)
    audited, found = checked(tmp_path)
    assert {code: files for code, files in named(found).items() if code != "imbalance"} == expected
    left_out = {audited.files[i].path for i in audited.excluded}
    assert left_out == {path for path in expected["leak"] if path.startswith("train/")}


def test_shortcuts_are_found_and_sound_sets_have_none(tmp_path):
    for root, classes in faults.shortcuts(tmp_path / "shortcuts"):
        assert named(checked(root)[1])["shortcut"] == classes, root
    for root in faults.sound_sets(tmp_path / "sound"):
        assert "shortcut" not in named(checked(root)[1]), root


@pytest.mark.parametrize(
    ("names", "alike"),
    [
        (["Cat", "cat", "cats"], [["Cat", "cat", "cats"]]),
        (["fox", "foxes", "pony", "ponies", "bus", "glass"], [["fox", "foxes"], ["ponies", "pony"]]),
        (["red_car", "red car", "Red-Car"], [["Red-Car", "red car", "red_car"]]),
        (["café", "cafe"], [["cafe", "café"]]),
        (["class1", "class2", "1", "11", "left", "right", "a", "as", "?", "!"], []),
        (["-1", "1", "1.5", "15", "C#", "C++", "A+", "A-", "\u304b", "\u304c", "1-2", "12"], []),
    ],
)
def test_names_of_one_class(names, alike):
    assert file_checks._alike(names) == alike


def test_what_training_would_refuse_is_an_error(tmp_path):
    """Classes count what is left once copies and broken files are taken away."""
    for i in range(12):
        for name, seed in (("same", 0), ("sound", i + 1)):
            (tmp_path / name).mkdir(exist_ok=True)
            photo(80, 60, seed).save(tmp_path / name / f"{i}.png")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/1.jpg").write_text("text")
    found = {problem.code: problem for problem in checked(tmp_path)[1]}
    assert found["tiny_class"].severity == "error"
    assert set(found["tiny_class"].files) == {"broken/", "same/"}
    assert "broken 0, same 1" in found["tiny_class"].message


def test_one_class_and_none(tmp_path):
    assert "single_class" in named(checked(plant(tmp_path / "one", "cat/1.png", "cat/2.png"))[1])
    (tmp_path / "none").mkdir()
    assert "single_class" in named(checked(tmp_path / "none")[1])


def test_a_folder_that_must_not_be_read(tmp_path, monkeypatch):
    plant(tmp_path, "cat/1.png", "dog/1.png", "dog/shut/1.png")
    read = os.scandir

    def forbid(path):
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", path)
        return read(path)

    monkeypatch.setattr(os, "scandir", forbid)  # root, as which tests may run, reads every folder
    assert named(checked(tmp_path)[1])["unreadable"] == {"dog/shut/"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_would_never_end(tmp_path):
    plant(tmp_path, "cat/1.png", "cat/2.png", "dog/1.png")
    (tmp_path / "cat/up").symlink_to("..")
    (tmp_path / "dog/self.jpg").symlink_to("self.jpg")
    os.mkfifo(tmp_path / "dog/pipe.jpg")
    (tmp_path / "cat/bomb.png").write_bytes(faults.bomb())
    with open(tmp_path / "dog/vast.jpg", "wb") as file:
        file.truncate(10_000_000_000)
    found = named(checked(tmp_path)[1])
    assert found["unreadable"] == {"dog/self.jpg"}
    assert found["huge_image"] == {"cat/bomb.png", "dog/vast.jpg"}
    assert found["stray_file"] == {"dog/pipe.jpg"}


def test_a_set_of_tiny_or_gray_pictures_is_said_once_as_a_note(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(12):
            noise = np.random.default_rng(i + 100 * (name == "b")).integers(0, 255, (16, 16), np.uint8)
            Image.fromarray(noise).save(tmp_path / f"{name}/{i}.png")
    _, found = checked(tmp_path)
    assert [(p.code, p.severity, p.count) for p in found] == [("tiny_image", "info", 24)]


def test_many_files_are_counted_but_not_all_named():
    files = [ImageFile(f"a/{i}.jpg", "ab"[i % 2]) for i in range(3_000)]
    records = np.zeros(len(files), RECORD)
    audited = audit.Audit(files, records, ["truncated"] * len(files))
    (found,) = (p for p in screening.find_issues(Listing("x", files), audited) if p.code == "unreadable")
    assert found.count == 3_000
    assert len(found.row()["files"]) == issues.MOST_FILES
