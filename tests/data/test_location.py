"""What a value of --data names."""

import pytest
from drawings import class_folders

from imgcls.data import demo_digits
from imgcls.data.location import DEFAULT_FOLDER, DataLocation, resolve_location
from imgcls.errors import FolderError


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_resolve_location_without_data_is_the_demo_or_the_default_folder(here):
    demo = resolve_location(None)
    assert (demo.name, demo.is_demo, demo.path, demo.hub_id) == ("digits", True, None, None)
    (here / DEFAULT_FOLDER).mkdir()
    folder = resolve_location(None)
    assert (folder.name, folder.is_demo, str(folder.path)) == (DEFAULT_FOLDER, False, DEFAULT_FOLDER)


@pytest.mark.parametrize(
    ("data", "name"), [("photos", "photos"), ("a/b/photos/", "photos"), (".", "here"), ("labels.csv", "labels")]
)
def test_resolve_location_names_a_path_by_its_last_part(here, data, name):
    (here / "here").mkdir()
    (here / "here/labels.csv").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here / "here")
        location = resolve_location(data)
        assert (location.name, location.hub_id, location.is_demo) == (name, None, False)


@pytest.mark.parametrize(
    ("data", "is_hub"),
    [("owner/name", True), ("name", False), ("a/b/c", False), ("./name", False), ("~/name", False), ("/name", False)],
)
def test_resolve_location_takes_owner_and_name_as_a_hub_id(here, data, is_hub):
    assert resolve_location(data).hub_id == (data if is_hub else None)


def test_resolve_location_prefers_what_exists_on_this_disk_to_a_hub_id(here):
    assert resolve_location("owner/name") == DataLocation("name", hub_id="owner/name")
    (here / "owner").mkdir()  # then a name in it is rather misspelt
    assert resolve_location("owner/name").hub_id is None


def test_listing_of_the_demo_writes_the_digits_to_the_cache(here, monkeypatch):
    monkeypatch.setenv("IMGCLS_CACHE", str(here / "cache"))
    listing = resolve_location(None).listing()
    assert len(listing.files) == demo_digits.DEMO_IMAGES
    assert here in listing.root.parents


def test_listing_is_strict_about_classes_unless_told_otherwise(here):
    class_folders(here / "photos", per_class=3)
    for name in ("cross", "square"):
        for file in (here / "photos" / name).iterdir():
            file.unlink()
    with pytest.raises(FolderError, match="two classes"):
        resolve_location("photos").listing()
    assert resolve_location("photos").listing(strict=False).classes == ["circle"]


def test_listing_of_a_hub_dataset_is_refused():
    with pytest.raises(ValueError, match="owner/name"):
        DataLocation("name", hub_id="owner/name").listing()
