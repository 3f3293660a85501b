"""Heat maps of all eight architectures, and that they show what decided."""

import pytest
import tiny
import torch
import transformers
from torch import nn

from imgcls.models import classifier, saliency, source
from imgcls.report import heatmaps


@pytest.mark.parametrize("name", tiny.HUB_IDS)
def test_all_architectures(tmp_path, name):
    built = classifier.build_classifier(source.resolve_model(str(tiny.write(name, tmp_path))), ["a", "b", "c"])
    pixels = torch.randn(2, 3, built.image_px, built.image_px, generator=torch.Generator().manual_seed(0))
    before = built.network(pixel_values=pixels).logits
    maps = saliency.heat_maps(built.network, pixels, [0, 2])
    assert maps.shape[0] == 2
    assert maps.shape[1] == maps.shape[2] > 1
    assert maps.min() >= 0
    assert torch.allclose(maps.amax(dim=(1, 2)), torch.ones(2))
    assert not pixels.requires_grad
    assert torch.allclose(built.network(pixel_values=pixels).logits, before)  # attention is as it was
    alone = saliency.heat_maps(built.network, pixels[1:], [2])
    assert torch.allclose(alone[0], maps[1], atol=1e-4)


class Quarters(nn.Module):
    """Class k is the mean brightness of quarter k, through one map of features."""

    def __init__(self):
        super().__init__()
        self.config = type("Config", (), {"num_labels": 4})()
        self.map = nn.AvgPool2d(8)

    def forward(self, pixel_values):
        maps = self.map(pixel_values)
        a, b, c, d = maps[..., :2, :2], maps[..., :2, 2:], maps[..., 2:, :2], maps[..., 2:, 2:]
        logits = torch.stack([q.mean(dim=(1, 2, 3)) for q in (a, b, c, d)], 1)
        return type("Output", (), {"logits": logits})()


def test_what_decided_is_bright():
    pixels = torch.zeros(1, 3, 32, 32)
    pixels[:, :, :16, 16:] = 1  # only quarter 1 is bright
    (heat,) = saliency.heat_maps(Quarters(), pixels, [1])
    assert heat[:2, 2:].min() == 1
    assert heat.sum() == heat[:2, 2:].sum()


def test_a_network_that_neither_way_fits(tmp_path):
    class Flat(nn.Module):
        config = type("Config", (), {"num_labels": 2})()

        def __init__(self):
            super().__init__()
            self.head = nn.Linear(3 * 8 * 8, 2)

        def forward(self, pixel_values):
            return type("Output", (), {"logits": self.head(pixel_values.flatten(1))})()

    assert saliency.heat_maps(Flat(), torch.zeros(1, 3, 8, 8), [0]) is None


def test_overlays_are_pictures(tmp_path, shapes):
    built = classifier.build_classifier(source.resolve_model(str(tiny.write("resnet-18", tmp_path))), ["a", "b"])
    file = next(shapes.rglob("*.jpg"))
    (encoded,) = heatmaps.heatmap_pictures(built.network, built.processor, [str(file)], [1])
    assert encoded.startswith("/9j/")  # a JPEG in base64


@pytest.mark.parametrize("kind", ["Swin", "MobileViT", "LevitFor", "PvtV2"])
def test_other_transformers_are_explained_or_said_not_to_be(shapes, kind):
    names = {"Swin": "SwinForImageClassification", "MobileViT": "MobileViTForImageClassification",
             "LevitFor": "LevitForImageClassification", "PvtV2": "PvtV2ForImageClassification"}  # fmt: skip
    network = getattr(transformers, names[kind])(getattr(transformers, CONFIGS[kind])(num_labels=3)).eval()
    processor = transformers.ViTImageProcessor(size={"height": 224, "width": 224})
    found = heatmaps.heatmap_pictures(network, processor, [str(next(shapes.rglob("*.jpg")))], [1])
    assert found is None or (kind != "Swin" and found[0].startswith("/9j/"))  # its attention is in windows


CONFIGS = {"Swin": "SwinConfig", "MobileViT": "MobileViTConfig", "LevitFor": "LevitConfig", "PvtV2": "PvtV2Config"}
