"""Weights for other classes and other input sizes: head rows by class name, position embeddings by interpolation."""

import pytest
import tiny
import torch

from imgcls.errors import ModelError
from imgcls.models import source
from imgcls.models.classifier import build_classifier
from imgcls.models.weight_transfer import transfer_weights


def build(folder, classes=("a", "b"), **options):
    return build_classifier(source.resolve_model(str(folder)), list(classes), **options)


def test_transfer_weights_keeps_head_rows_of_the_same_class_name(tmp_path):
    folder = tiny.write("resnet-18", tmp_path / "resnet-18")
    old, new = build(folder, "abc").network, build(folder, "cxa").network
    random_row = new.classifier[1].weight[1].clone()
    (note,) = transfer_weights(old, new, "resnet-18")
    assert note == "new head for 3 classes, 2 known classes kept (the checkpoint had 3)"
    assert torch.equal(new.classifier[1].weight[[0, 2]], old.classifier[1].weight[[2, 0]])
    assert torch.equal(new.classifier[1].weight[1], random_row)


def test_transfer_weights_keeps_the_head_of_the_same_classes(tmp_path):
    folder = tiny.write("resnet-18", tmp_path / "resnet-18")
    old, new = build(folder, "abc").network, build(folder, "bca").network
    assert transfer_weights(old, new, "resnet-18") == ["head kept: the same classes"]
    assert torch.equal(new.classifier[1].bias, old.classifier[1].bias[[1, 2, 0]])


def test_transfer_weights_refuses_other_shapes(tmp_path):
    old, new = (build(tiny.write(name, tmp_path / name)).network for name in ("resnet-18", "resnet-18"))
    new.resnet.embedder.embedder.convolution.weight = torch.nn.Parameter(torch.zeros(2, 3, 7, 7))
    with pytest.raises(ModelError, match=r"convolution\.weight of mine with shape \(2, 3, 7, 7\)"):
        transfer_weights(old, new, "mine")


def test_interpolate_position_embeddings_agrees_with_transformers(tmp_path):
    folder = tiny.write("vit-base", tmp_path / "vit-base")
    embeddings = build(folder).network.vit.embeddings
    large = build(folder, image_px=384).network
    positions = large.vit.embeddings.position_embeddings
    assert positions.shape[1] == 1 + 24 * 24
    assert large.config.image_size == 384
    assert torch.equal(positions[:, 0], embeddings.position_embeddings[:, 0])
    torch.testing.assert_close(positions, embeddings.interpolate_pos_encoding(positions, 384, 384))
