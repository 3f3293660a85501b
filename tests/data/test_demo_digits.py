"""The demo's images are scikit-learn's digits, each in its class, written once."""

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from imgcls.data import demo_digits


def test_write_demo_digits_writes_all_digits_with_their_pixels(tmp_path):
    folder = demo_digits.write_demo_digits(tmp_path)
    source = load_digits()
    files = sorted(folder.glob("*/*.png"), key=lambda f: f.name)
    assert len(files) == demo_digits.DEMO_IMAGES == len(source.target)
    assert [int(f.parent.name) for f in files] == source.target.tolist()
    for file, pixels in zip(files[::97], source.images[::97], strict=True):
        written = np.asarray(Image.open(file))
        assert written.shape == (10, 10)
        assert not written[[0, -1]].any()
        assert np.abs(written[1:-1, 1:-1] - pixels * 255 / 16).max() <= 0.5


def test_write_demo_digits_writes_once_and_leaves_no_partial_folder(tmp_path):
    folder = demo_digits.write_demo_digits(tmp_path)
    times = {f: f.stat().st_mtime_ns for f in folder.rglob("*.png")}
    assert demo_digits.write_demo_digits(tmp_path) == folder
    assert {f: f.stat().st_mtime_ns for f in folder.rglob("*.png")} == times
    assert [f.name for f in tmp_path.iterdir()] == ["digits"]
