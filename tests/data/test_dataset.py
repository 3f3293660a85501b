"""Rows of `datasets` for files on disk and on the Hub."""

import json

import pytest
import tiny
from drawings import class_folders
from loopback import LoopbackHub, parquet_repo

from imgcls.audit import audit
from imgcls.data import dataset
from imgcls.data.location import resolve_location


def paths(images):
    return [file.path for file in images.listing.files]


@pytest.fixture
def shapes(tmp_path):
    return class_folders(tmp_path / "shapes", per_class=10)


def test_open_images_has_rows_in_the_order_of_the_listing_with_any_suffix(shapes):
    for file in sorted((shapes / "circle").iterdir())[::2]:
        file.rename(file.with_suffix(".avif"))  # imagefolder skips these
    images = dataset.open_images(resolve_location(str(shapes)))
    assert [row["path"] for row in images.rows["image"]] == [str(shapes / p) for p in paths(images)]
    assert paths(images) == sorted(paths(images))
    assert [file.label for file in images.listing.files] == [p.split("/")[0] for p in paths(images)]


def test_open_images_takes_a_broken_link_as_an_unreadable_image(shapes):
    (shapes / "circle/gone.jpg").symlink_to("nowhere.jpg")
    found = dataset.open_images(resolve_location(str(shapes)))
    at = paths(found).index("circle/gone.jpg")
    audited = audit.run_audit(found.listing.files, found.keys, found.source, show_progress=False)
    assert [i for i, reason in enumerate(audited.reasons) if reason] == [at]


@pytest.mark.nightly
def test_open_images_trains_on_a_hub_dataset(staged, shapes, tmp_path):
    with LoopbackHub() as hub:
        hub.add_dataset("tester/shapes", parquet_repo(tmp_path / "repo", shapes))
        hub.add_model(tiny.HUB_IDS["resnet-18"], tiny.write("resnet-18", tmp_path / "checkpoint"))
        env = {k: v for k, v in hub.env(tmp_path / "home").items() if k != "HF_HUB_OFFLINE"}
        base = ["--model", "resnet-18", "--max_steps", 2, "--data"]
        done, wrong, unknown = (
            staged({"arguments": [*base, data, "--output_dir", tmp_path / f"run{i}", *more]}, env=env)
            for i, (data, more) in enumerate(
                [("tester/shapes", []), ("tester/shapes", ["--label_column", "kind"]), ("tester/nothing", [])]
            )
        )
    gone = staged({"arguments": [*base, "tester/shapes", "--output_dir", tmp_path / "run3"]}, env=env)
    assert done.returncode == 0, done.stderr
    assert gone.returncode == 0, gone.stderr  # what was had before is still there
    assert "Retrying" not in gone.stderr
    numbers = json.loads((tmp_path / "run0/metrics.json").read_text())
    assert numbers["classes"] == ["circle", "cross", "square"]
    assert numbers["train"]["images"] + numbers["validation"]["images"] == 30
    assert (wrong.returncode, unknown.returncode) == (1, 1)
    assert "'kind'" in wrong.stderr
    assert "image, label" in wrong.stderr
    assert "tester/nothing" in unknown.stderr
    assert "Traceback" not in wrong.stderr + unknown.stderr
