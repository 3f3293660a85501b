"""Names and folders -> networks: heads, position embeddings, other sizes, and files that do not fit."""

import json

import pytest
import tiny
import torch
from drawings import photo
from safetensors.torch import load_file, save_file

from imgcls.errors import ModelError
from imgcls.models import classifier, source

NAMES = sorted(tiny.HUB_IDS)


@pytest.fixture
def build(tmp_path):
    def of(name, classes=("a", "b"), **options):
        return classifier.build_classifier(
            source.resolve_model(str(tiny.write(name, tmp_path / name))), list(classes), **options
        )

    return of


@pytest.mark.parametrize("name", ["resnet-18", "efficientnet-b0", "mobilenetv3-small", "vit-base"])
def test_from_scratch_needs_no_files(name):
    torch.manual_seed(0)
    built = classifier.build_classifier(source.resolve_model(name), ["a", "b", "c"], from_scratch=True)
    assert built.initialised == "random"
    assert built.network.config.num_labels == 3
    assert built.processor(images=photo(90, 70, 0), return_tensors="pt")["pixel_values"].shape[-1] == built.image_px


def test_the_backbone_is_the_checkpoint_s_and_the_head_is_new(build, tmp_path):
    built = build("resnet-18", ["a", "b", "c"])
    weights = load_file(tmp_path / "resnet-18" / "model.safetensors")
    for key, value in built.network.state_dict().items():
        assert torch.equal(value, weights[key]) != key.startswith("classifier"), key
    assert built.network.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert any("new head for 3 classes" in note for note in built.notes)


def test_position_embeddings_are_interpolated_not_thrown_away(build):
    embeddings = build("vit-base").network.vit.embeddings
    old = embeddings.position_embeddings
    new = build("vit-base", image_px=384)
    wide = new.network.vit.embeddings.position_embeddings
    assert wide.shape[1] == 1 + 24 * 24
    assert new.network.config.image_size == 384
    assert torch.equal(wide[:, 0], old[:, 0])
    torch.testing.assert_close(wide, embeddings.interpolate_pos_encoding(wide, 384, 384))


@pytest.mark.parametrize("name", NAMES)
def test_a_network_gives_the_same_logits_at_another_size_as_its_own_processor_feeds_it(build, name):
    built = build(name, image_px=160)
    pixels = built.processor(images=[photo(200, 150, i) for i in range(2)], return_tensors="pt")["pixel_values"]
    assert pixels.shape == (2, 3, 160, 160)
    logits = built.network.eval()(pixel_values=pixels).logits
    assert logits.shape == (2, 2)
    assert logits.isfinite().all()


def test_a_size_that_patches_do_not_divide_names_the_nearest(build):
    with pytest.raises(ModelError, match="Use 192 or 208"):
        build("vit-base", image_px=200)


def test_weights_that_lack_a_layer_are_refused(build, tmp_path):
    folder = tiny.write("resnet-18", tmp_path / "resnet-18")
    weights = load_file(folder / "model.safetensors")
    gone = next(key for key in weights if "encoder" in key)
    save_file({k: v for k, v in weights.items() if k != gone}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="got none for"):
        classifier.build_classifier(source.resolve_model(str(folder)), ["a", "b"])


def test_weights_that_can_run_code_are_refused(tmp_path):
    folder = tiny.write("resnet-18", tmp_path / "resnet-18")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        classifier.build_classifier(source.resolve_model(str(folder)), ["a", "b"])


def test_code_in_a_checkpoint_is_never_run(tmp_path):
    folder = tiny.write("resnet-18", tmp_path / "resnet-18")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "code.Mine"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ModelError):
        classifier.build_classifier(source.resolve_model(str(folder)), ["a", "b"])
    assert not (tmp_path / "ran").exists()


def test_a_text_model_is_no_image_model(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match="image"):
        classifier.build_classifier(source.resolve_model(str(tmp_path)), ["a", "b"])


def test_batch_norm_statistics_follow_slowly():
    for name in ("efficientnet-b0", "resnet-18", "mobilenetv3-small"):
        built = classifier.build_classifier(source.resolve_model(name), ["a", "b"], from_scratch=True, image_px=64)
        momenta = {m.momentum for m in built.network.modules() if isinstance(m, torch.nn.BatchNorm2d)}
        assert momenta == {0.1}


def test_random_networks_tell_pictures_apart():
    pictures = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for name in ("efficientnet-b0", "resnet-18", "mobilenetv3-small", "vit-small-msn"):
        torch.manual_seed(0)
        network = classifier.build_classifier(
            source.resolve_model(name), ["a", "b"], from_scratch=True, image_px=64
        ).network.train()
        with torch.no_grad():
            logits = network(pixel_values=pictures).logits
        assert logits.std(dim=0).min() > 1e-3, name
