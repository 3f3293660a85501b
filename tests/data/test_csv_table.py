"""CSV files of all kinds, right and wrong: what becomes of each."""

import pytest
from planted import labels, message, plant, skipped, splits

from imgcls.data.csv_table import read_csv
from imgcls.data.listing import REPEATED
from imgcls.data.location import read_listing

ROWS = [("a/0.png", "cat"), ("a/1.png", "cat"), ("b/0.png", "dog"), ("b/1.png", "dog")]


def table(root, *lines, name="labels.csv", encoding="utf-8"):
    plant(root, *(path for path, _ in ROWS))
    path = root / name
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return path


def lines(separator=",", header="path{}label"):
    return [header.format(separator), *(separator.join(row) for row in ROWS)]


@pytest.mark.parametrize("separator", [",", ";", "\t"], ids=["comma", "semicolon", "tab"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_read_csv_takes_three_separators(tmp_path, separator, encoding):
    listing = read_listing(table(tmp_path, *lines(separator), encoding=encoding))
    assert labels(listing) == dict(ROWS)
    assert {f.split for f in listing.files} == {None}
    assert listing.root == tmp_path
    assert all(listing.absolute(f).is_file() for f in listing.files)


@pytest.mark.parametrize("header", ["file_name{}Class", "Image{}target", "filename{}category", " path {} LABEL "])
@pytest.mark.parametrize("name", ["labels.tsv", "LABELS.CSV"])
def test_read_csv_finds_columns_by_their_usual_names(tmp_path, header, name):
    assert labels(read_listing(table(tmp_path, *lines("\t", header), name=name))) == dict(ROWS)


def test_read_csv_with_other_columns_quotes_and_crlf(tmp_path):
    rows = [
        "id,path,note,label",
        '1,a/0.png,"said ""x, y""",cat',
        '2,a/1.png,,"cat"',
        "3,b/0.png,n,dog",
        "4,b/1.png,n, dog ",
    ]
    path = table(tmp_path, *rows)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert labels(read_csv(path)) == dict(ROWS)


def test_read_csv_skips_blank_lines(tmp_path):
    assert labels(read_csv(table(tmp_path, *lines(), "", ""))) == dict(ROWS)


def test_read_csv_with_absolute_paths(tmp_path):
    rows = [f"{tmp_path / path},{label}" for path, label in ROWS]
    plant(tmp_path, *(path for path, _ in ROWS))
    listing = read_csv(table(tmp_path / "lists", "path,label", *rows))
    assert {listing.absolute(f) for f in listing.files} == {tmp_path / path for path, _ in ROWS}


def test_read_csv_in_another_working_directory(tmp_path, monkeypatch):
    table(tmp_path / "data", *lines())
    monkeypatch.chdir(tmp_path)
    listing = read_listing("data/labels.csv")
    assert listing.absolute(listing.files[0]) == tmp_path / "data/a/0.png"


def test_read_csv_with_splits(tmp_path):
    rows = [f"{path},{label},{'Train' if '0' in path else 'val'}" for path, label in ROWS]
    listing = read_csv(table(tmp_path, "path,label,split", *rows))
    assert splits(listing) == {"train": {"cat": 1, "dog": 1}, "validation": {"cat": 1, "dog": 1}}


def test_read_csv_with_empty_splits(tmp_path):
    listing = read_csv(table(tmp_path, "path,label,split", *(f"{path},{label}," for path, label in ROWS)))
    assert {f.split for f in listing.files} == {None}


def test_read_csv_refuses_an_unknown_split(tmp_path):
    rows = [f"{path},{label},holdout" for path, label in ROWS]
    path = table(tmp_path, "path,label,split", *rows)
    text = message(read_csv, path, cure="Leave it empty")
    assert f"{path}, line 2" in text
    assert "'holdout'" in text
    assert "train, validation, test" in text


def test_read_csv_counts_a_repeated_row(tmp_path):
    listing = read_csv(table(tmp_path, *lines(), "a/0.png,cat", "./a//0.png,cat"))
    assert labels(listing) == dict(ROWS)
    assert skipped(listing) == {REPEATED: 2}


def test_read_csv_refuses_contradicting_labels(tmp_path):
    path = table(tmp_path, *lines(), "a/0.png,dog")
    text = message(read_csv, path, cure="keep the label that matters most")
    assert f"{path}, line 6" in text
    assert "a/0.png" in text
    assert "cat and dog" in text


def test_read_csv_refuses_contradicting_splits(tmp_path):
    rows = [f"{path},{label},train" for path, label in ROWS]
    path = table(tmp_path, "path,label,split", *rows, "a/0.png,cat,test")
    text = message(read_csv, path, cure="Keep one")
    assert f"{path}, line 6" in text
    assert "train and test" in text


@pytest.mark.parametrize("label", ["cat;dog", "cat|dog", "\"['cat', 'dog']\"", '"[""cat"", ""dog""]"', '"{1, 2}"'])
def test_read_csv_refuses_several_labels(tmp_path, label):
    path = table(tmp_path, *lines(), f"a/0.png,{label}")
    text = message(read_csv, path, cure="exactly one class")
    assert f"{path}, line 6" in text


def test_read_csv_refuses_missing_files(tmp_path):
    path = table(tmp_path, *lines(), *(f"gone/{i}.png,cat" for i in range(7)))
    text = message(read_csv, path, cure="relative to the CSV's folder")
    assert str(path) in text
    assert "7 that do not exist" in text
    assert "gone/4.png and 2 more" in text


def test_read_csv_refuses_a_missing_column(tmp_path):
    for header, kind in (("path,colour", "label"), ("label,colour", "path")):
        path = table(tmp_path, header, "a/0.png,cat")
        text = message(read_csv, path, cure="Name it in the header")
        assert f"a {kind} column" in text
        assert str(path) in text
        assert "colour" in text


def test_read_csv_refuses_a_missing_header(tmp_path):
    path = table(tmp_path, *lines()[1:])
    assert "a/0.png, cat" in message(read_csv, path, cure="Name it in the header")


@pytest.mark.parametrize("row", ["a/0.png,", "a/0.png,  ", ",cat", "a/0.png"])
def test_read_csv_refuses_an_empty_cell(tmp_path, row):
    path = table(tmp_path, *lines(), row)
    text = message(read_csv, path, cure="Fill it in")
    assert f"{path}, line 6" in text


def test_read_csv_refuses_an_empty_csv(tmp_path):
    path = table(tmp_path)
    path.write_text("")
    assert str(path) in message(read_csv, path, cure="Name it in the header")
    path.write_text("path,label\n")
    assert str(path) in message(read_csv, path, cure="Add")


def test_read_csv_refuses_other_encodings_than_utf8(tmp_path):
    path = table(tmp_path, *lines(), "b/1.png,Möwe", encoding="latin-1")
    assert str(path) in message(read_csv, path, cure="Save it again as UTF-8")
    gone = tmp_path / "gone.csv"
    assert str(gone) in message(read_csv, gone, cure="")


def test_read_csv_refuses_one_class(tmp_path):
    path = table(tmp_path, *lines()[:3])
    assert str(path) in message(read_csv, path, cure="Add")


def test_read_csv_refuses_a_class_of_one_image(tmp_path):
    plant(tmp_path, "e.png")
    assert f"got 1 in eel in {tmp_path}" in message(read_csv, table(tmp_path, *lines(), "e.png,eel"), cure="Add images")


def test_read_csv_refuses_what_no_reader_takes(tmp_path):
    path = table(tmp_path, *lines(), 'a/0.png,"' + "x" * 200_000)
    text = message(read_csv, path, cure="Fix the quotes")
    assert f"{path}, line 5" in text  # the last that could be read
