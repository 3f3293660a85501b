"""The whole photo instead of a crop, for every architecture, saved and loaded again."""

import pytest
import tiny
import torch
from PIL import Image
from transformers import AutoImageProcessor

from imgcls import inputs, model, source


def framed():
    """A wide blue picture in a red frame."""
    picture = Image.new("RGB", (400, 200), (255, 0, 0))
    picture.paste((0, 0, 255), (30, 30, 370, 170))
    return picture


@pytest.fixture(scope="module", params=sorted(tiny.HUB_IDS))
def folder(request, tmp_path_factory):
    return tiny.write(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("px", [None, 64, 384])
def test_the_frame_is_seen_on_all_sides_and_after_loading(folder, px, tmp_path):
    built = model.build(source.locate(str(folder)), ["a", "b"], image_px=px, crop="whole")
    seen = built.processor(images=framed(), return_tensors="pt")["pixel_values"][0]
    assert seen.shape == (3, built.image_px, built.image_px)
    red, middle = seen[0], built.image_px // 2
    blue = red[middle, middle]
    assert all(red[i, j] - blue > 0.5 for i, j in ((0, middle), (-1, middle), (middle, 0), (middle, -1)))
    assert not inputs.crops(built.processor, built.image_px)
    built.network.save_pretrained(tmp_path)
    if not hasattr(built.processor, "data_config"):
        built.processor.save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    assert torch.equal(loaded(images=framed(), return_tensors="pt")["pixel_values"][0], seen)


def test_which_checkpoints_crop(folder):
    built = model.build(source.locate(str(folder)), ["a", "b"])
    cropping = built.network.config.model_type in ("resnet", "timm_wrapper")
    assert inputs.crops(built.processor, built.image_px) == cropping
