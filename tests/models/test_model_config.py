"""What configurations and image processors say of checkpoints, and what they become for a task."""

import pytest
import tiny

from imgcls.errors import ModelError
from imgcls.models import input_size, model_config, source
from imgcls.models.classifier import build_classifier


@pytest.fixture(scope="module", params=sorted(tiny.HUB_IDS))
def model_source(request, tmp_path_factory):
    return source.resolve_model(str(tiny.write(request.param, tmp_path_factory.mktemp(request.param))))


def test_checkpoint_aspect_is_that_of_the_checkpoint(model_source):
    model = build_classifier(model_source, ["a", "b"])
    aspect = "crop" if model.network.config.model_type in ("resnet", "timm_wrapper") else "squash"
    assert input_size.detect_aspect(model.processor, model.image_px) == aspect
    assert model_config.checkpoint_aspect(model_source) == aspect


def test_load_fitted_config_is_that_of_the_classifier(model_source):
    config, processor = model_config.load_fitted_config(model_source, ["a", "b"], 64, "squash")
    model = build_classifier(model_source, ["a", "b"], image_px=64, aspect="squash")
    assert config.id2label == model.network.config.id2label == {0: "a", 1: "b"}
    assert processor.to_dict() == model.processor.to_dict()
    assert model_config.checkpoint_family(model_source) == model.family


def test_check_input_size_refuses_sizes_that_patches_do_not_divide():
    model_config.check_input_size(source.resolve_model("vit-base"), 208)
    with pytest.raises(ModelError, match="Use 192 or 208"):
        model_config.check_input_size(source.resolve_model("vit-base"), 200)
