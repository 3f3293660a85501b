"""Heat maps of all eight architectures: their form, their values, and that they mark what decided."""

from types import SimpleNamespace

import pytest
import tiny
import torch
from torch import nn

from imgcls.models import classifier, saliency, source


class Quarters(nn.Module):
    """Class k is the mean brightness of quarter k, computed from one feature map."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(num_labels=4)
        self.map = nn.AvgPool2d(8)

    def forward(self, pixel_values):
        maps = self.map(pixel_values)
        a, b, c, d = maps[..., :2, :2], maps[..., :2, 2:], maps[..., 2:, :2], maps[..., 2:, 2:]
        return SimpleNamespace(logits=torch.stack([q.mean(dim=(1, 2, 3)) for q in (a, b, c, d)], 1))


class TinyCnn(nn.Module):
    """One convolution whose output an in-place ReLU overwrites, then two linear layers over all positions."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(num_labels=3)
        self.convolution = nn.Conv2d(3, 4, 3, padding=1)
        self.hidden, self.head = nn.Linear(4 * 6 * 6, 5), nn.Linear(5, 3)

    def forward(self, pixel_values):
        return SimpleNamespace(logits=self.logits(self.convolution(pixel_values)))

    def logits(self, maps):
        return self.head(self.hidden(nn.functional.relu(maps, inplace=True).flatten(1)).tanh())


class Flat(nn.Module):
    """A network without feature maps."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(num_labels=2)
        self.head = nn.Linear(3 * 8 * 8, 2)

    def forward(self, pixel_values):
        return SimpleNamespace(logits=self.head(pixel_values.flatten(1)))


@pytest.mark.parametrize("name", tiny.HUB_IDS)
def test_heat_maps_fit_all_architectures_and_leave_the_network_as_it_was(tmp_path, name):
    model = classifier.build_classifier(source.resolve_model(str(tiny.write(name, tmp_path))), ["a", "b", "c"])
    pixels = torch.randn(2, 3, model.image_px, model.image_px, generator=torch.Generator().manual_seed(0))
    before = model.network(pixel_values=pixels).logits
    maps = saliency.heat_maps(model.network, pixels, [0, 2])
    assert maps.shape[0] == 2
    assert maps.shape[1] == maps.shape[2] > 1
    assert maps.min() >= 0
    assert torch.allclose(maps.amax(dim=(1, 2)), torch.ones(2))
    assert not pixels.requires_grad
    assert all(parameter.grad is None for parameter in model.network.parameters())
    assert torch.allclose(model.network(pixel_values=pixels).logits, before)  # the attention implementation is restored
    single = saliency.heat_maps(model.network, pixels[1:], [2])
    assert torch.allclose(single[0], maps[1], atol=1e-4)


def test_heat_maps_are_bright_where_the_target_is_decided():
    pixels = torch.zeros(1, 3, 32, 32)
    pixels[:, :, :16, 16:] = 1  # only quarter 1 is bright
    (heat,) = saliency.heat_maps(Quarters(), pixels, [1])
    assert heat[:2, 2:].min() == 1
    assert heat.sum() == heat[:2, 2:].sum()


@pytest.mark.parametrize("is_frozen", [False, True])
def test_heat_maps_are_grad_cam_as_computed_image_by_image(is_frozen):
    torch.manual_seed(0)
    network = TinyCnn().requires_grad_(not is_frozen)
    pixels, targets = torch.randn(5, 3, 6, 6), [0, 2, 1, 1, 0]
    heat = saliency.heat_maps(network, pixels, targets)
    for image, target, result in zip(pixels, targets, heat, strict=True):
        maps = network.convolution(image[None]).detach().requires_grad_()
        network.logits(maps.clone())[0, target].backward()
        channel_weights = maps.grad[0].mean(dim=(1, 2))
        expected = sum(weight * channel for weight, channel in zip(channel_weights, maps[0], strict=True)).clamp(min=0)
        assert expected.max() > 0
        torch.testing.assert_close(result, (expected / expected.max()).detach())


def test_heat_maps_are_none_without_feature_maps():
    assert saliency.heat_maps(Flat(), torch.zeros(1, 3, 8, 8), [0]) is None
