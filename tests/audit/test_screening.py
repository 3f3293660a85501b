"""Screening: issues of planted faults, excluded images and groups, and what a training stores of them."""

import csv
import io
import json
import os
import re
from collections import defaultdict

import faults
import numpy as np
import pytest
from drawings import class_folders, photo
from PIL import Image, ImageOps
from planted import plant

from imgcls.audit import audit, screening
from imgcls.audit.image_stats import RECORD
from imgcls.audit.issues import MAX_FILES, SEVERITIES
from imgcls.config.data_options import DataOptions
from imgcls.data import dataset, image_folder
from imgcls.data.listing import ImageFile, Listing
from imgcls.data.location import resolve_location
from imgcls.data.splits import make_splits
from imgcls.errors import FolderError, OptionError


@pytest.fixture
def shapes(tmp_path):
    """Class folders with a broken file, two that are the same, a mirrored copy, and one under two classes."""
    root = class_folders(tmp_path / "shapes", per_class=14, size=(96, 72))
    (root / "circle/broken.jpg").write_bytes(b"no image")
    same = (root / "cross/cross_000.jpg").read_bytes()
    (root / "cross/again.jpg").write_bytes(same)
    for name in ("circle", "square"):
        photo(96, 72, 5).save(root / name / "torn.png")
    photo(96, 72, 6).save(root / "circle/picture.png")
    ImageOps.mirror(photo(96, 72, 6)).save(root / "circle/mirrored.png")
    return root


def screened(root, **options):
    images = dataset.open_images(resolve_location(str(root)))
    result = screening.screen_images(images, DataOptions(**options), show_progress=False)
    return images, result, {images.listing.files[i].path: reason for i, reason in result.excluded.items()}


def test_screen_images_excludes_and_groups(shapes):
    images, result, excluded = screened(shapes)
    assert set(excluded) == {"circle/broken.jpg", "cross/cross_000.jpg", "circle/torn.png", "square/torn.png"}
    assert "near_duplicate" not in {issue.code for issue in result.issues}  # quick
    group = dict(zip((file.path for file in images.listing.files), result.groups, strict=True))
    assert group["circle/picture.png"] == group["circle/mirrored.png"]
    splits = make_splits(images, result.excluded, DataOptions(), 0, result.groups)
    rows = {path: (split, group) for path, _, split, group in splits.table()}
    assert rows["circle/picture.png"] == rows["circle/mirrored.png"]
    assert rows["circle/picture.png"][1] == "circle/mirrored.png"
    assert rows["cross/cross_003.jpg"][1] == ""


def test_screen_images_full_and_off(shapes):
    assert "near_duplicate" in {issue.code for issue in screened(shapes, check="full")[1].issues}
    _, result, excluded = screened(shapes, check="off")
    assert (excluded, result.groups, result.issues) == ({}, None, [])
    with pytest.raises(OptionError, match="--group_by folder"):
        screened(shapes, check="off", group_by="folder")


def test_screen_images_reads_exclude(shapes, tmp_path):
    file = tmp_path / "exclude.csv"
    file.write_text("path,reason\nsquare/square_001.jpg,ugly\ncross/cross_002.jpg,\ngone.jpg,\n")
    excluded = screened(shapes, exclude=str(file))[2]
    assert excluded["square/square_001.jpg"] == "ugly"
    assert excluded["cross/cross_002.jpg"] == "named in exclude.csv"
    file.write_text("path\nsquare_001.jpg\n")
    with pytest.raises(OptionError, match=r"Nearest to the first: square/square_001\.jpg"):
        screened(shapes, exclude=str(file))
    file.write_text("file\nsquare_001.jpg\n")
    with pytest.raises(OptionError, match="Expected a column path"):
        screened(shapes, exclude=str(file))
    with pytest.raises(OptionError, match="No such file"):
        screened(shapes, exclude=str(tmp_path / "nothing.csv"))


def test_screen_images_ignores_what_the_user_excluded(shapes, tmp_path):
    file = tmp_path / "exclude.csv"
    file.write_text("path\nsquare/torn.png\ncross/again.jpg\ncircle/broken.jpg\n")
    excluded = screened(shapes, exclude=str(file), bad_images="error")[2]
    assert set(excluded) == {"square/torn.png", "cross/again.jpg", "circle/broken.jpg"}


def test_screen_images_refuses_broken_images_with_bad_images_error(shapes):
    with pytest.raises(FolderError, match=r"circle/broken\.jpg \(not an image\).*--bad_images skip"):
        screened(shapes, bad_images="error")


def test_screen_images_refuses_only_broken_images(tmp_path):
    for name in ("a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")
    with pytest.raises(FolderError, match="got 4 that cannot"):
        screened(tmp_path)


def test_train_stores_exclude_and_issues(train, shapes, resnet, tmp_path):
    done = train(
        "--data", shapes, "--model", resnet, "--tune", "full", "--max_steps", 2, "--output_dir", tmp_path / "run"
    )
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO((tmp_path / "run/exclude.csv").read_text())))
    assert {row["path"] for row in rows} >= {"circle/broken.jpg", "circle/torn.png"}
    codes = {issue["code"] for issue in json.loads((tmp_path / "run/check.json").read_text())}
    assert {"unreadable", "exact_duplicate", "label_conflict"} <= codes
    for code in ("unreadable", "exact_duplicate", "label_conflict"):
        assert done.stderr.count(f" {code}: ") == 1


def test_train_squashes_wide_photos_without_a_probe(train, resnet, tmp_path):
    root = class_folders(tmp_path / "wide", per_class=6, size=(160, 60))
    command = ("--data", root, "--model", resnet, "--tune", "full", "--max_steps", 1, "--image_px", 64)
    done = train(*command, "--output_dir", tmp_path / "run")
    assert "a center crop would miss over a third of 100 % of the photos" in done.stderr
    settings = json.loads((tmp_path / "run/preprocessor_config.json").read_text())
    assert settings["size"] == {"height": 64, "width": 64}
    given = train(*command, "--aspect", "crop", "--output_dir", tmp_path / "run2")
    assert "squashed" not in given.stderr


def checked(root):
    """The audit of a folder and its issues."""
    listing = image_folder.scan_image_folder(root, strict=False)
    keys = listing.paths()
    audited = audit.run_audit(listing.files, keys, keys.__getitem__, show_progress=False)
    return audited, screening.find_issues(listing, audited)


def files_by_code(issues):
    """code -> files."""
    files = defaultdict(set)
    for issue in issues:
        files[issue.code].update(issue.files)
    return files


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """(code -> files to be named, kind of copy -> pairs, the audit, its issues) of the planted folder."""
    root = tmp_path_factory.mktemp("faults")
    return *faults.pictures(root), *checked(root)


def test_find_issues_names_every_fault_and_nothing_else(planted):
    expected, _, audited, issues = planted
    assert len(audited) >= 300
    assert all(len(files) >= 2 for files in expected.values())
    assert files_by_code(issues).keys() - expected.keys() == {"imbalance"}  # tiny classes beside large ones
    for code, files in expected.items():
        assert files_by_code(issues)[code] == files, code


def test_audit_groups_has_copies_in_one_group_and_others_apart(planted):
    _, pairs, audited, _ = planted
    group, index = audited.groups(), {file.path: i for i, file in enumerate(audited.files)}
    for kind, same in pairs.items():
        assert np.mean([group[index[a]] == group[index[b]] for a, b in same]) >= 0.95, kind
    sound = [group[i] for path, i in index.items() if "sound" in path]
    assert len(sound) == len(set(sound)) == faults.SOUND


def test_find_issues_gives_advice_for_each(planted):
    for issue in planted[3]:
        assert issue.severity in SEVERITIES
        assert issue.count > 0
        assert not re.search(r"\b1 \w+s\b", issue.message)
        assert issue.advice.endswith((".", "?"))
        assert set(issue.row()) == {"code", "severity", "count", "files", "message", "advice", "groups"}


def test_audit_excluded_gives_reasons(planted):
    _, _, audited, _ = planted
    excluded = {audited.files[i].path: reason for i, reason in audited.excluded.items()}
    assert excluded["cat/torn0.jpg"] == excluded["dog/torn0.jpg"] == "the same file under several classes: cat, dog"
    same = ["bird/same1 copy 2.jpg", "bird/same1 copy.jpg", "bird/same1.jpg"]
    assert [excluded.get(path) for path in same] == [None, *["the same file as bird/same1 copy 2.jpg"] * 2]
    assert "bird/split0.jpg" not in excluded  # which class is right, a person has to say
    assert "cat/cut.jpg" in excluded
    assert not any("sound" in path for path in excluded)


def test_find_issues_reports_leaks_and_class_mismatches_of_splits(tmp_path):
    expected = faults.splits(tmp_path)
    audited, issues = checked(tmp_path)
    assert {code: files for code, files in files_by_code(issues).items() if code != "imbalance"} == expected
    excluded = {audited.files[i].path for i in audited.excluded}
    assert excluded == {path for path in expected["leak"] if path.startswith("train/")}


def test_find_issues_reports_shortcuts_and_none_in_sound_sets(tmp_path):
    for root, classes in faults.shortcuts(tmp_path / "shortcuts"):
        assert files_by_code(checked(root)[1])["shortcut"] == classes, root
    for root in faults.sound_sets(tmp_path / "sound"):
        assert "shortcut" not in files_by_code(checked(root)[1]), root


def test_find_issues_reports_what_training_refuses_as_an_error(tmp_path):
    """Classes count what is left once copies and broken files are taken away."""
    for i in range(12):
        for name, seed in (("same", 0), ("sound", i + 1)):
            (tmp_path / name).mkdir(exist_ok=True)
            photo(80, 60, seed).save(tmp_path / name / f"{i}.png")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/1.jpg").write_text("text")
    issues = {issue.code: issue for issue in checked(tmp_path)[1]}
    assert issues["tiny_class"].severity == "error"
    assert set(issues["tiny_class"].files) == {"broken/", "same/"}
    assert "broken 0, same 1" in issues["tiny_class"].message


def test_find_issues_reports_a_single_class(tmp_path):
    assert "single_class" in files_by_code(checked(plant(tmp_path / "one", "cat/1.png", "cat/2.png"))[1])
    (tmp_path / "none").mkdir()
    assert "single_class" in files_by_code(checked(tmp_path / "none")[1])


def test_find_issues_reports_a_folder_without_permission(tmp_path, monkeypatch):
    plant(tmp_path, "cat/1.png", "dog/1.png", "dog/shut/1.png")
    read = os.scandir

    def forbid(path):
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", path)
        return read(path)

    monkeypatch.setattr(os, "scandir", forbid)  # root, as which tests may run, reads every folder
    assert files_by_code(checked(tmp_path)[1])["unreadable"] == {"dog/shut/"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_find_issues_ends_on_loops_pipes_and_bombs(tmp_path):
    plant(tmp_path, "cat/1.png", "cat/2.png", "dog/1.png")
    (tmp_path / "cat/up").symlink_to("..")
    (tmp_path / "dog/self.jpg").symlink_to("self.jpg")
    os.mkfifo(tmp_path / "dog/pipe.jpg")
    (tmp_path / "cat/bomb.png").write_bytes(faults.bomb())
    with open(tmp_path / "dog/vast.jpg", "wb") as file:
        file.truncate(10_000_000_000)
    issues = files_by_code(checked(tmp_path)[1])
    assert issues["unreadable"] == {"dog/self.jpg"}
    assert issues["huge_image"] == {"cat/bomb.png", "dog/vast.jpg"}
    assert issues["stray_file"] == {"dog/pipe.jpg"}


def test_find_issues_reports_a_tiny_data_set_as_one_note(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(12):
            noise = np.random.default_rng(i + 100 * (name == "b")).integers(0, 255, (16, 16), np.uint8)
            Image.fromarray(noise).save(tmp_path / f"{name}/{i}.png")
    _, issues = checked(tmp_path)
    assert [(p.code, p.severity, p.count) for p in issues] == [("tiny_image", "info", 24)]


def test_issue_row_counts_all_files_and_names_some():
    files = [ImageFile(f"a/{i}.jpg", "ab"[i % 2]) for i in range(3_000)]
    records = np.zeros(len(files), RECORD)
    audited = audit.Audit(files, records, ["truncated"] * len(files))
    (issues,) = (p for p in screening.find_issues(Listing("x", files), audited) if p.code == "unreadable")
    assert issues.count == 3_000
    assert len(issues.row()["files"]) == MAX_FILES
