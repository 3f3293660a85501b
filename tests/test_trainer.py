"""One optimizer step's gradient, however the batch is cut; the initial state after running out of memory."""

import pytest
import tiny
import torch
from drawings import photo

from imgcls import model, source
from imgcls.fitting import halved
from imgcls.losses import ClassificationLoss
from imgcls.trainer import memory_layout


@pytest.mark.parametrize("name", ["vit-base", "vit-small-msn", "resnet-18", "efficientnet-b0", "mobilenetv3-small"])
@pytest.mark.parametrize("parts", [4, 2])
def test_gradients_do_not_depend_on_how_a_batch_is_cut(name, parts, tmp_path):
    built = model.build(source.locate(str(tiny.write(name, tmp_path))), ["a", "b", "c"])
    network = built.network.eval()  # batch norm frozen
    x = built.processor(images=[photo(200, 150, i) for i in range(16)], return_tensors="pt")["pixel_values"]
    labels = torch.arange(16) % 3
    loss = ClassificationLoss(torch.tensor([0.5, 1.0, 1.6]), 0.1)

    def gradients(pieces):
        network.zero_grad()
        for rows in torch.arange(16).chunk(pieces):
            loss(network(pixel_values=x[rows]), labels[rows], num_items_in_batch=16).backward()
        return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])

    whole, cut = gradients(1), gradients(parts)
    assert (whole - cut).norm() / whole.norm() < 1e-5


@pytest.mark.parametrize(("before", "after"), [((16, 1), (8, 2)), ((6, 1), (3, 2)), ((3, 2), (1, 6)), ((7, 1), (1, 7))])
def test_halving_keeps_the_effective_batch(before, after):
    assert halved(*before) == after


def test_narrow_convolutions_keep_the_ordinary_layout(tmp_path):
    narrow = model.build(source.locate(str(tiny.write("resnet-18", tmp_path))), ["a", "b"])
    real = model.build(source.locate("resnet-18"), ["a", "b"], from_scratch=True)
    assert memory_layout(narrow) is torch.contiguous_format
    assert memory_layout(real) is torch.channels_last
