"""Ill-named, ill-kept and well-kept class folders: what becomes of each."""

import os

import planted
import pytest
from planted import images, labels, message, plant, skipped, splits

from imgcls.data.image_folder import scan_image_folder
from imgcls.data.listing import EMPTY, HIDDEN, LOOSE, NO_IMAGE, OUTSIDE, ImageFile
from imgcls.data.location import read_listing


def test_scan_image_folder_plain_classes(tmp_path):
    listing = scan_image_folder(plant(tmp_path, *images("dog", "cat", count=3)))
    assert listing.classes == ["cat", "dog"]
    assert [f.path for f in listing.files] == sorted(images("cat", "dog", count=3))
    assert listing.files[0] == ImageFile("cat/0.png", "cat", None)
    assert listing.absolute(listing.files[0]) == tmp_path / "cat/0.png"
    assert skipped(listing) == {}
    assert listing.summary() == ""


@pytest.mark.parametrize(
    "name",
    [
        "pregnancy-test",
        "[1]",
        'it\'s "quoted"',
        "naïve 猫 🐈",
        "a, b; c",
        "with space ",
        "100%",
        "-1",
        "nul\tl",
        "a.jpg",
        "Trains",
        "evaluation",
        "x\\y",
        "*",
    ],
)
def test_scan_image_folder_keeps_names_as_they_are(tmp_path, name):
    listing = scan_image_folder(plant(tmp_path, *images("cat", name)))
    assert listing.classes == sorted(["cat", name])
    assert splits(listing) == {None: {"cat": 2, name: 2}}
    assert all(listing.absolute(f).is_file() for f in listing.files)


@pytest.mark.parametrize("name", ["train", "Train", "test", "val", "validation", "eval", "dev", "training"])
def test_scan_image_folder_takes_a_split_name_with_images_in_it_as_a_class(tmp_path, name):
    listing = scan_image_folder(plant(tmp_path, *images("bus", name)))
    assert splits(listing) == {None: {"bus": 2, name: 2}}


def test_scan_image_folder_train_and_test_as_classes_side_by_side(tmp_path):
    """Lab images sorted by equipment, or the splits of one class only: images lie directly in both."""
    listing = scan_image_folder(plant(tmp_path, *images("train", "test")))
    assert splits(listing) == {None: {"train": 2, "test": 2}}


def test_scan_image_folder_the_class_train_may_have_folders(tmp_path):
    """Sorted by maker, beside other classes; nothing is shared, so these are no splits."""
    listing = scan_image_folder(plant(tmp_path, *images("train/steam", "train/diesel", "bus/red", "bus/blue")))
    assert splits(listing) == {None: {"train": 4, "bus": 4}}


def test_scan_image_folder_takes_folders_in_a_class_as_part_of_it(tmp_path):
    plant(tmp_path, *images("cat", "cat/kittens", "cat/kittens/grey", "dog"))
    listing = scan_image_folder(tmp_path)
    assert splits(listing) == {None: {"cat": 6, "dog": 2}}
    assert "cat/kittens/grey/1.png" in labels(listing)


def test_scan_image_folder_counts_everything_else(tmp_path):
    plant(
        tmp_path,
        *images("cat", "dog"),
        "cat/metadata.csv",
        "cat/notes.txt",
        "cat/Thumbs.db",
        "cat/.DS_Store",
        "cat/._0.png",
        "cat/.ipynb_checkpoints/0-checkpoint.png",
        "__MACOSX/cat/0.png",
        ".git/a.png",
        "@eaDir/0.png",
        "empty/",
        "only text/readme.txt",
        "nested empty/a/b/",
        "README.md",
        "classes.json",
        "loose.png",
        "loose.JPG",
        "desktop.ini",
    )
    listing = scan_image_folder(tmp_path)
    assert splits(listing) == {None: {"cat": 2, "dog": 2}}
    # .DS_Store, ._0.png, .ipynb_checkpoints, Thumbs.db; __MACOSX, .git, @eaDir, desktop.ini
    assert skipped(listing) == {HIDDEN: 8, NO_IMAGE: 5, EMPTY: 3, LOOSE: 2}
    assert listing.summary() == (
        "skipped: 3 empty folder, 8 hidden or system, 5 not an image, 2 outside the class folders"
    )


def test_scan_image_folder_suffixes_in_any_case_and_none_at_all(tmp_path):
    plant(tmp_path, *images("cat", "dog"), "cat/A.PNG", "cat/b.Jpg")
    planted.PIXEL.save(tmp_path / "cat/n0001", "PNG")
    (tmp_path / "cat/LICENSE").write_text("free")
    listing = scan_image_folder(tmp_path)
    assert splits(listing) == {None: {"cat": 5, "dog": 2}}
    assert skipped(listing) == {NO_IMAGE: 1}


def test_scan_image_folder_trailing_slash_and_relative_root(tmp_path, monkeypatch):
    plant(tmp_path / "data", *images("cat", "dog"))
    monkeypatch.chdir(tmp_path)
    for root in ("data", "data/", "./data"):
        listing = read_listing(root)
        assert listing.files == scan_image_folder(tmp_path / "data").files
        assert listing.absolute(listing.files[0]) == tmp_path / "data/cat/0.png"


# Links.


def test_scan_image_folder_follows_links_to_images_and_folders(tmp_path):
    plant(tmp_path, *images("far/lions", "root/cat", "root/dog"))
    (tmp_path / "root/lion").symlink_to(tmp_path / "far/lions")
    (tmp_path / "root/cat/big").symlink_to(tmp_path / "far/lions")
    (tmp_path / "root/dog/9.png").symlink_to(tmp_path / "far/lions/0.png")
    assert splits(scan_image_folder(tmp_path / "root")) == {None: {"cat": 4, "dog": 3, "lion": 2}}


@pytest.mark.parametrize("target", [".", "..", "../..", "../cat", "../dog/loop"])
def test_scan_image_folder_ignores_loops(tmp_path, target):
    """A link upwards must neither hang nor give one class the images of all others."""
    plant(tmp_path / "root", *images("cat", "dog"))
    (tmp_path / "root/cat/loop").symlink_to(target)
    (tmp_path / "root/dog/loop").symlink_to(".")
    assert splits(scan_image_folder(tmp_path / "root"))[None]["cat"] in ((2, 4) if target == "../dog/loop" else (2,))
    assert splits(scan_image_folder(tmp_path / "root"))[None]["dog"] == 2


def test_scan_image_folder_a_link_to_itself_and_broken_links(tmp_path):
    plant(tmp_path, *images("cat", "dog"))
    (tmp_path / "cat/self").symlink_to("self")
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "cat/gone").symlink_to("nowhere")
    listing = scan_image_folder(tmp_path)
    assert splits(listing) == {None: {"cat": 2, "dog": 2}}
    assert skipped(listing) == {NO_IMAGE: 3}


# Splits.


@pytest.mark.parametrize(
    ("train", "validation"),
    [("train", "val"), ("Train", "Valid"), ("TRAIN", "validation"), ("training", "dev"), ("train", "eval")],
)
def test_scan_image_folder_train_and_validation(tmp_path, train, validation):
    plant(tmp_path, *images(f"{train}/cat", f"{train}/dog", count=3), *images(f"{validation}/cat", f"{validation}/dog"))
    listing = scan_image_folder(tmp_path)
    assert splits(listing) == {"train": {"cat": 3, "dog": 3}, "validation": {"cat": 2, "dog": 2}}
    assert labels(listing)[f"{train}/cat/0.png"] == "cat"
    assert skipped(listing) == {}


def test_scan_image_folder_train_valid_test_in_any_case(tmp_path):
    names = [f"{split}/{name}" for split in ("Train", "Valid", "Test") for name in ("cat", "dog")]
    listing = scan_image_folder(plant(tmp_path, *images(*names)))
    assert splits(listing) == {split: {"cat": 2, "dog": 2} for split in ("train", "validation", "test")}


def test_scan_image_folder_train_alone_and_train_with_test(tmp_path):
    alone = scan_image_folder(plant(tmp_path / "a", *images("train/cat", "train/dog")))
    assert splits(alone) == {"train": {"cat": 2, "dog": 2}}
    both = scan_image_folder(plant(tmp_path / "b", *images("train/cat", "train/dog", "test/cat", "test/dog")))
    assert splits(both) == {"train": {"cat": 2, "dog": 2}, "test": {"cat": 2, "dog": 2}}


def test_scan_image_folder_folders_in_a_class_of_a_split(tmp_path):
    plant(tmp_path, *images("train/cat/grey", "train/dog", "val/cat", "val/dog/big"))
    assert splits(scan_image_folder(tmp_path)) == {"train": {"cat": 2, "dog": 2}, "validation": {"cat": 2, "dog": 2}}


def test_scan_image_folder_skips_extra_folders_next_to_splits(tmp_path):
    plant(tmp_path, *images("train/cat", "train/dog", "val/cat", "val/dog", "unlabelled", "extra/x", count=2), "a.png")
    listing = scan_image_folder(tmp_path)
    assert splits(listing) == {"train": {"cat": 2, "dog": 2}, "validation": {"cat": 2, "dog": 2}}
    assert skipped(listing) == {OUTSIDE: 4, LOOSE: 1}
    assert "4 in folders next to the splits" in listing.summary()


def test_scan_image_folder_skips_test_images_without_classes(tmp_path):
    """Kaggle's layout: test holds unlabelled images."""
    plant(tmp_path, *images("train/cat", "train/dog", "val/cat", "val/dog"), *images("test", count=5))
    listing = scan_image_folder(tmp_path)
    assert set(splits(listing)) == {"train", "validation"}
    assert skipped(listing) == {LOOSE: 5}


def test_scan_image_folder_two_validation_folders(tmp_path):
    plant(tmp_path, *images(*(f"{s}/{c}" for s in ("train", "val", "valid") for c in ("cat", "dog"))))
    text = message(scan_image_folder, tmp_path, cure="Rename or remove one")
    assert str(tmp_path) in text
    assert "val and valid" in text


def test_scan_image_folder_validation_and_test_without_train(tmp_path):
    plant(tmp_path, *images(*(f"{s}/{c}" for s in ("val", "test") for c in ("cat", "dog"))))
    text = message(scan_image_folder, tmp_path, cure="Rename the one to train on")
    assert str(tmp_path) in text
    assert "test, val" in text


def test_scan_image_folder_val_alone_with_classes_is_one_class(tmp_path):
    plant(tmp_path, *images("val/cat", "val/dog"))
    text = message(scan_image_folder, tmp_path, cure=f"give --data {tmp_path / 'val'}")
    assert "got one: val" in text


@pytest.mark.parametrize("split", ["val", "test"])
def test_scan_image_folder_class_in_one_split_only(tmp_path, split):
    names = [f"{s}/{c}" for s in ("train", split) for c in ("cat", "dog")]
    plant(tmp_path, *images(*names, f"{split}/Dog"))
    text = message(scan_image_folder, tmp_path, cure="Name the classes alike")
    assert f"got Dog in {'validation' if split == 'val' else split} only in {tmp_path}" in text
    assert "cat, dog" in text


def test_scan_image_folder_class_missing_in_validation(tmp_path):
    plant(tmp_path, *images("train/cat", "train/dog", "train/eel", "val/cat", "val/dog"))
    assert f"none of eel in {tmp_path}" in message(scan_image_folder, tmp_path, cure="Add images there")


def test_scan_image_folder_accepts_a_class_missing_in_test(tmp_path):
    plant(tmp_path, *images("train/cat", "train/dog", "test/cat"))
    assert splits(scan_image_folder(tmp_path))["test"] == {"cat": 2}


def test_scan_image_folder_takes_one_image_per_class_with_a_validation_split(tmp_path):
    plant(tmp_path, *images("train/cat", "train/dog", "val/cat", "val/dog", count=1))
    assert splits(scan_image_folder(tmp_path)) == {"train": {"cat": 1, "dog": 1}, "validation": {"cat": 1, "dog": 1}}


# Errors.


def test_scan_image_folder_missing_folder(tmp_path):
    plant(tmp_path, "flowers/", "cars/")
    text = message(read_listing, tmp_path / "flower", cure="flowers")
    assert str(tmp_path / "flower") in text
    assert str(tmp_path / "no/where") in message(read_listing, tmp_path / "no/where", cure="does not exist")


@pytest.mark.parametrize(
    ("name", "cure"), [("data.zip", "Unpack"), ("data.tar.gz", "Unpack"), ("a.png", "Give the folder")]
)
def test_scan_image_folder_refuses_a_file(tmp_path, name, cure):
    plant(tmp_path, name)
    assert str(tmp_path / name) in message(read_listing, tmp_path / name, cure=cure)


def test_scan_image_folder_empty_folder(tmp_path):
    text = message(scan_image_folder, tmp_path, cure="Make one folder per class")
    assert f"{tmp_path}, got an empty folder" in text


def test_scan_image_folder_no_images_at_all(tmp_path):
    plant(tmp_path, "cat/a.txt", "dog/b.mp4", "eel/")
    text = message(scan_image_folder, tmp_path, cure="Make one folder per class")
    assert "3 empty folder" in text
    assert "2 not an image" in text


def test_scan_image_folder_loose_images_only(tmp_path):
    plant(tmp_path, *images(".", count=3))
    text = message(scan_image_folder, tmp_path, cure="Make one folder per class")
    assert "3 images directly in it" in text
    assert str(tmp_path) in text


def test_scan_image_folder_a_single_class(tmp_path):
    plant(tmp_path, *images("cat"), "dog/")
    text = message(scan_image_folder, tmp_path, cure="Add images of another class")
    assert "got one: cat" in text
    assert str(tmp_path) in text


def test_scan_image_folder_a_wrapper_folder(tmp_path):
    plant(tmp_path, *images("flowers/rose", "flowers/tulip"))
    assert "got one: flowers" in message(scan_image_folder, tmp_path, cure=f"give --data {tmp_path / 'flowers'}")


def test_scan_image_folder_a_single_class_in_splits(tmp_path):
    plant(tmp_path, *images("train/cat", "val/cat"))
    assert "got one: cat" in message(scan_image_folder, tmp_path, cure="Add images of another class")


def test_scan_image_folder_class_of_one_image(tmp_path):
    plant(tmp_path, *images("cat", "dog"), "eel/0.png")
    text = message(scan_image_folder, tmp_path, cure="Add images or remove the class")
    assert f"got 1 in eel in {tmp_path}" in text


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_scan_image_folder_unreadable_folder(tmp_path):
    plant(tmp_path, *images("cat", "dog"))
    (tmp_path / "cat").chmod(0)
    try:
        assert str(tmp_path / "cat") in message(scan_image_folder, tmp_path, cure="Change its permissions")
    finally:
        (tmp_path / "cat").chmod(0o755)


def test_scan_image_folder_folder_that_the_system_will_not_list(tmp_path, monkeypatch):
    plant(tmp_path, *images("cat", "dog"))

    def refuse(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(os, "scandir", refuse)
    text = message(scan_image_folder, tmp_path, cure="Change its permissions")
    assert f"{tmp_path}: Permission denied" in text
