"""Classifiers from names and folders: other classes, other input sizes, and files that do not fit."""

import json

import pytest
import tiny
import torch
from drawings import photo
from safetensors.torch import load_file, save_file

from imgcls.errors import ModelError
from imgcls.models import source
from imgcls.models.classifier import build_classifier

NAMES = sorted(tiny.HUB_IDS)


@pytest.fixture
def build(tmp_path):
    def build_tiny(name, classes=("a", "b"), **options):
        folder = tiny.write(name, tmp_path / name)
        return build_classifier(source.resolve_model(str(folder)), list(classes), **options)

    return build_tiny


@pytest.mark.parametrize("name", ["resnet-18", "efficientnet-b0", "mobilenetv3-small", "vit-base"])
def test_build_classifier_from_scratch_needs_no_files(name):
    torch.manual_seed(0)
    model = build_classifier(source.resolve_model(name), ["a", "b", "c"], from_scratch=True)
    assert model.initialised == "random"
    assert model.network.config.num_labels == 3
    assert model.processor(images=photo(90, 70, 0), return_tensors="pt")["pixel_values"].shape[-1] == model.image_px


def test_build_classifier_keeps_the_backbone_and_replaces_the_head(build, tmp_path):
    model = build("resnet-18", ["a", "b", "c"])
    weights = load_file(tmp_path / "resnet-18" / "model.safetensors")
    for key, value in model.network.state_dict().items():
        assert torch.equal(value, weights[key]) != key.startswith("classifier"), key
    assert model.network.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert any("new head for 3 classes" in note for note in model.notes)


@pytest.mark.parametrize("name", NAMES)
def test_build_classifier_accepts_the_pixels_of_its_processor_at_another_size(build, name):
    model = build(name, image_px=160)
    pixels = model.processor(images=[photo(200, 150, i) for i in range(2)], return_tensors="pt")["pixel_values"]
    assert pixels.shape == (2, 3, 160, 160)
    logits = model.network.eval()(pixel_values=pixels).logits
    assert logits.shape == (2, 2)
    assert logits.isfinite().all()


def test_build_classifier_names_the_nearest_sizes_that_patches_divide(build):
    with pytest.raises(ModelError, match="Use 192 or 208"):
        build("vit-base", image_px=200)


def test_build_classifier_refuses_weights_that_lack_a_layer(tmp_path):
    folder = tiny.write("resnet-18", tmp_path / "resnet-18")
    weights = load_file(folder / "model.safetensors")
    removed = next(key for key in weights if "encoder" in key)
    save_file({k: v for k, v in weights.items() if k != removed}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="got none for"):
        build_classifier(source.resolve_model(str(folder)), ["a", "b"])


def test_build_classifier_refuses_weights_that_can_run_code(tmp_path):
    folder = tiny.write("resnet-18", tmp_path / "resnet-18")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        build_classifier(source.resolve_model(str(folder)), ["a", "b"])


def test_build_classifier_never_runs_code_of_a_checkpoint(tmp_path):
    folder = tiny.write("resnet-18", tmp_path / "resnet-18")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "code.Mine"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ModelError):
        build_classifier(source.resolve_model(str(folder)), ["a", "b"])
    assert not (tmp_path / "ran").exists()


def test_build_classifier_refuses_a_text_model(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match="image"):
        build_classifier(source.resolve_model(str(tmp_path)), ["a", "b"])


def test_build_classifier_sets_the_batch_norm_momentum_of_torch():
    for name in ("efficientnet-b0", "resnet-18", "mobilenetv3-small"):
        model = build_classifier(source.resolve_model(name), ["a", "b"], from_scratch=True, image_px=64)
        momenta = {m.momentum for m in model.network.modules() if isinstance(m, torch.nn.BatchNorm2d)}
        assert momenta == {0.1}


def test_build_classifier_from_scratch_tells_images_apart():
    pixels = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for name in ("efficientnet-b0", "resnet-18", "mobilenetv3-small", "vit-small-msn"):
        torch.manual_seed(0)
        model = build_classifier(source.resolve_model(name), ["a", "b"], from_scratch=True, image_px=64)
        with torch.no_grad():
            logits = model.network.train()(pixel_values=pixels).logits
        assert logits.std(dim=0).min() > 1e-3, name
