"""Non-square photos: cropped, padded or squashed, for every architecture, the same once saved and loaded."""

import pytest
import tiny
import torch
from PIL import Image
from transformers import AutoImageProcessor

from imgcls.errors import ModelError
from imgcls.models import input_size, source
from imgcls.models.classifier import build_classifier
from imgcls.models.input_size import InputFormat


def framed_photo():
    """A wide blue picture in a red frame."""
    picture = Image.new("RGB", (400, 200), (255, 0, 0))
    picture.paste((0, 0, 255), (30, 30, 370, 170))
    return picture


@pytest.fixture(scope="module", params=sorted(tiny.HUB_IDS))
def folder(request, tmp_path_factory):
    return tiny.write(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize(
    ("aspect", "words"),
    [
        ("crop", "288 px, center crop"),
        ("pad", "288 px, padded"),
        ("squash", "288 px, squashed (stretched, nothing cropped)"),
        (None, "288 px, aspect handling of the checkpoint"),
    ],
)
def test_input_format_is_shown_in_words(aspect, words):
    assert str(InputFormat(288, aspect)) == words


@pytest.mark.parametrize("aspect", ["crop", "pad", "squash"])
@pytest.mark.parametrize("px", [None, 64, 384])
def test_with_aspect_holds_after_saving_and_loading(folder, px, aspect, tmp_path):
    if "efficientnet" in folder.name and aspect == "pad":
        with pytest.raises(ModelError, match="can pad photos, got EfficientNetImageProcessor"):
            build_classifier(source.resolve_model(str(folder)), ["a", "b"], image_px=px, aspect=aspect)
        return
    model = build_classifier(source.resolve_model(str(folder)), ["a", "b"], image_px=px, aspect=aspect)
    pixels = model.processor(images=framed_photo(), return_tensors="pt")["pixel_values"][0]
    assert pixels.shape == (3, model.image_px, model.image_px)
    assert input_size.detect_aspect(model.processor, model.image_px) == aspect
    check_frame(pixels, aspect)
    model.network.save_pretrained(tmp_path)
    if not hasattr(model.processor, "data_config"):
        model.processor.save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    assert torch.equal(loaded(images=framed_photo(), return_tensors="pt")["pixel_values"][0], pixels)
    resized = build_classifier(source.resolve_model(str(tmp_path)), ["a", "b"], image_px=96)
    assert resized.image_px == 96
    assert input_size.detect_aspect(resized.processor, 96) == aspect


def check_frame(pixels, aspect):
    """The red frame of `framed_photo` is cropped, visible on all sides, or padded above and below."""
    red = pixels[0] > (pixels[0].amax() + pixels[0].amin()) / 2
    middle = pixels.shape[1] // 2
    if aspect == "crop":
        assert not red[middle].any()
    elif aspect == "squash":
        assert all(red[i, j] for i, j in ((1, middle), (-2, middle), (middle, 1), (middle, -2)))
    else:
        rows = (pixels - pixels[:, -1:, -1:]).abs().amax((0, 2)) > 0.05  # the corner is padding
        assert rows.float().mean() == pytest.approx(0.5, abs=0.02)
