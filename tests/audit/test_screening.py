"""What a training does with what the check found, from the command line to the run folder."""

import csv
import io
import json

import pytest
from drawings import class_folders, photo
from PIL import ImageOps

from imgcls.audit import screening
from imgcls.config.data_options import DataOptions
from imgcls.data import dataset
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
    wanted = DataOptions(data=str(root), **options)
    images = dataset.open_images(resolve_location(wanted.data))
    found = screening.screen_images(images, wanted, show_progress=False)
    return images, found, {images.listing.files[i].path: reason for i, reason in found.excluded.items()}


def test_what_is_left_out_and_what_stays_together(shapes):
    images, found, left_out = screened(shapes)
    assert set(left_out) == {"circle/broken.jpg", "cross/cross_000.jpg", "circle/torn.png", "square/torn.png"}
    assert "near_duplicate" not in {problem.code for problem in found.problems}  # quick
    group = dict(zip((file.path for file in images.listing.files), found.groups, strict=True))
    assert group["circle/picture.png"] == group["circle/mirrored.png"]
    splits = make_splits(images, found.excluded, DataOptions(), 0, found.groups)
    rows = {path: (split, of) for path, _, split, of in splits.table()}
    assert rows["circle/picture.png"] == rows["circle/mirrored.png"]
    assert rows["circle/picture.png"][1] == "circle/mirrored.png"
    assert rows["cross/cross_003.jpg"][1] == ""


def test_full_and_off(shapes):
    assert "near_duplicate" in {problem.code for problem in screened(shapes, check="full")[1].problems}
    _, found, left_out = screened(shapes, check="off")
    assert (left_out, found.groups, found.problems) == ({}, None, [])
    with pytest.raises(OptionError, match="--group_by folder"):
        screened(shapes, check="off", group_by="folder")


def test_a_person_s_list(shapes, tmp_path):
    file = tmp_path / "exclude.csv"
    file.write_text("path,reason\nsquare/square_001.jpg,ugly\ncross/cross_002.jpg,\ngone.jpg,\n")
    left_out = screened(shapes, exclude=str(file))[2]
    assert left_out["square/square_001.jpg"] == "ugly"
    assert left_out["cross/cross_002.jpg"] == "named in exclude.csv"
    file.write_text("path\nsquare_001.jpg\n")
    with pytest.raises(OptionError, match=r"Nearest to the first: square/square_001\.jpg"):
        screened(shapes, exclude=str(file))
    file.write_text("file\nsquare_001.jpg\n")
    with pytest.raises(OptionError, match="Expected a column path"):
        screened(shapes, exclude=str(file))
    with pytest.raises(OptionError, match="No such file"):
        screened(shapes, exclude=str(tmp_path / "nothing.csv"))


def test_what_a_person_solved_is_left_alone(shapes, tmp_path):
    file = tmp_path / "exclude.csv"
    file.write_text("path\nsquare/torn.png\ncross/again.jpg\ncircle/broken.jpg\n")
    left_out = screened(shapes, exclude=str(file), bad_images="error")[2]
    assert set(left_out) == {"square/torn.png", "cross/again.jpg", "circle/broken.jpg"}


def test_broken_images_as_an_error(shapes):
    with pytest.raises(FolderError, match=r"circle/broken\.jpg \(not an image\).*--bad_images skip"):
        screened(shapes, bad_images="error")


def test_nothing_but_broken_images(tmp_path):
    for name in ("a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")
    with pytest.raises(FolderError, match="got 4 that cannot"):
        screened(tmp_path)


def test_a_run_keeps_what_was_found(train, shapes, resnet, tmp_path):
    done = train(
        "--data", shapes, "--model", resnet, "--tune", "full", "--max_steps", 2, "--output_dir", tmp_path / "run"
    )
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO((tmp_path / "run/exclude.csv").read_text())))
    assert {row["path"] for row in rows} >= {"circle/broken.jpg", "circle/torn.png"}
    codes = {problem["code"] for problem in json.loads((tmp_path / "run/check.json").read_text())}
    assert {"unreadable", "exact_duplicate", "label_conflict"} <= codes
    for code in ("unreadable", "exact_duplicate", "label_conflict"):
        assert done.stderr.count(f" {code}: ") == 1


def test_wide_photos_are_squashed_where_no_probe_decides(train, resnet, tmp_path):
    root = class_folders(tmp_path / "wide", per_class=6, size=(160, 60))
    command = ("--data", root, "--model", resnet, "--tune", "full", "--max_steps", 1, "--image_px", 64)
    done = train(*command, "--output_dir", tmp_path / "run")
    assert "a center crop would miss over a third of 100 % of the photos" in done.stderr
    settings = json.loads((tmp_path / "run/preprocessor_config.json").read_text())
    assert settings["size"] == {"height": 64, "width": 64}
    given = train(*command, "--aspect", "crop", "--output_dir", tmp_path / "run2")
    assert "squashed" not in given.stderr
