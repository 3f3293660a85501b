"""Photos that are no squares: cut, padded or squashed, for every architecture, the same once saved and loaded."""

import pytest
import tiny
import torch
from PIL import Image
from transformers import AutoImageProcessor

from imgcls.errors import ModelError
from imgcls.models import classifier, input_size, model_config, source


def framed():
    """A wide blue picture in a red frame."""
    picture = Image.new("RGB", (400, 200), (255, 0, 0))
    picture.paste((0, 0, 255), (30, 30, 370, 170))
    return picture


@pytest.fixture(scope="module", params=sorted(tiny.HUB_IDS))
def folder(request, tmp_path_factory):
    return tiny.write(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("aspect", ["crop", "pad", "squash"])
@pytest.mark.parametrize("px", [None, 64, 384])
def test_what_is_shown_and_after_loading(folder, px, aspect, tmp_path):
    if "efficientnet" in folder.name and aspect == "pad":
        with pytest.raises(ModelError, match="can pad photos, got EfficientNetImageProcessor"):
            classifier.build_classifier(source.resolve_model(str(folder)), ["a", "b"], image_px=px, aspect=aspect)
        return
    built = classifier.build_classifier(source.resolve_model(str(folder)), ["a", "b"], image_px=px, aspect=aspect)
    seen = built.processor(images=framed(), return_tensors="pt")["pixel_values"][0]
    assert seen.shape == (3, built.image_px, built.image_px)
    red = seen[0] > (seen[0].amax() + seen[0].amin()) / 2
    middle = built.image_px // 2
    assert input_size.detect_aspect(built.processor, built.image_px) == aspect
    if aspect == "crop":
        assert not red[middle].any()  # the frame's sides are cut off
    elif aspect == "squash":
        assert all(red[i, j] for i, j in ((1, middle), (-2, middle), (middle, 1), (middle, -2)))
    else:
        rows = (seen - seen[:, -1:, -1:]).abs().amax((0, 2)) > 0.05  # the corner is padding
        assert rows.float().mean() == pytest.approx(0.5, abs=0.02)
    built.network.save_pretrained(tmp_path)
    if not hasattr(built.processor, "data_config"):
        built.processor.save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    assert torch.equal(loaded(images=framed(), return_tensors="pt")["pixel_values"][0], seen)
    again = classifier.build_classifier(source.resolve_model(str(tmp_path)), ["a", "b"], image_px=96)
    assert again.image_px == 96
    assert input_size.detect_aspect(again.processor, 96) == aspect


def test_what_checkpoints_show(folder):
    built = classifier.build_classifier(source.resolve_model(str(folder)), ["a", "b"])
    cropping = built.network.config.model_type in ("resnet", "timm_wrapper")
    assert input_size.detect_aspect(built.processor, built.image_px) == ("crop" if cropping else "squash")
    assert model_config.checkpoint_aspect(source.resolve_model(str(folder))) == ("crop" if cropping else "squash")
