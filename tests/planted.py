"""Files and folders put on the disk in a line, and what a listing made of them."""

import pytest
from PIL import Image

from imgcls.errors import FolderError

PIXEL = Image.new("RGB", (2, 2))


def plant(root, *paths):
    """Each path becomes a small picture or, with another suffix, a text file; "a/b/" becomes an empty folder."""
    for path in paths:
        target = root / path
        if path.endswith("/"):
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix.lower() in (".png", ".jpg"):
            PIXEL.save(target, "PNG")
        else:
            target.write_text("text")
    return root


def images(*folders, count=2):
    return [f"{folder}/{i}.png" for folder in folders for i in range(count)]


def labels(listing):
    return {f.path: f.label for f in listing.files}


def splits(listing):
    """split -> class -> number of images."""
    found = {}
    for f in listing.files:
        found.setdefault(f.split, {}).setdefault(f.label, 0)
        found[f.split][f.label] += 1
    return found


def skipped(listing):
    return {kind: len(paths) for kind, paths in listing.skipped.items() if paths}


def message(call, *arguments, cure):
    """The FolderError's text, which says what was expected, what was found, and a cure."""
    with pytest.raises(FolderError) as caught:
        call(*arguments)
    text = str(caught.value)
    assert text.startswith("Expected ")
    assert ", got " in text
    assert cure in text, text
    return text
