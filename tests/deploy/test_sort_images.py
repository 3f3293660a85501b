"""Copies into class folders: nothing is overwritten, nothing is there twice."""

from imgcls.deploy.predictions import copy_into_class_folders


def row(path, predicted="cat", unsure=0, error=""):
    return {"path": str(path), "predicted": predicted, "unsure": unsure, "error": error}


def files(root):
    return {p.relative_to(root).as_posix(): p.read_text() for p in root.rglob("*") if p.is_file()}


def test_sorting(tmp_path):
    one, two, three = (tmp_path / f"in{i}" / "x.jpg" for i in range(3))
    for i, path in enumerate((one, two, three)):
        path.parent.mkdir()
        path.write_text(f"content {i}")
    out = tmp_path / "out"
    rows = [row(one), row(two), row(three, unsure=1), row(tmp_path / "none.jpg", error="gone"), row("http://h/y.jpg")]
    for _ in range(2):  # a command that goes on may copy its last images again
        copy_into_class_folders(out, rows)
    assert files(out) == {"cat/x.jpg": "content 0", "cat/x-2.jpg": "content 1", "_unsure/x.jpg": "content 2"}
    assert one.read_text() == "content 0"


def test_names_that_are_no_folders(tmp_path):
    file = tmp_path / "x.jpg"
    file.write_text("x")
    out = tmp_path / "out"
    copy_into_class_folders(out, [row(file, name) for name in ("a/b", "..", "", "_unsure", "c\\d")])
    assert set(files(out)) == {"a_b/x.jpg", "_../x.jpg", "_/x.jpg", "__unsure/x.jpg", "c_d/x.jpg"}
