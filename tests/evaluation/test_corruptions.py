"""Images made worse: the more the stronger, the same at every call."""

import numpy as np
import pytest
from drawings import photo

from imgcls.evaluation import corruptions


@pytest.mark.parametrize("kind", corruptions.CORRUPTIONS)
def test_corrupt_stronger_changes_the_image_more(kind):
    image = photo(300, 200, 3)
    before = np.asarray(image, float)
    far = []
    for value in corruptions.CORRUPTIONS[kind][2]:
        worse = corruptions.corrupt(image, kind, value, 0)
        assert (worse.size, worse.mode) == (image.size, "RGB")
        assert np.array_equal(worse, corruptions.corrupt(image, kind, value, 0))
        far.append(np.abs(np.asarray(worse, float) - before).mean())
    assert 0 < far[0] < far[1] < far[2]
    assert np.array_equal(image, photo(300, 200, 3))  # it is left alone


def test_corrupt_shrinks_large_images_first():
    assert max(corruptions.corrupt(photo(1200, 900, 0), "blur", 0.01, 0).size) == corruptions.MAX_SIDE_PX
