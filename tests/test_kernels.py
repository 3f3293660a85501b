"""Triton's kernels against torch's operations; interpreted, where there is no accelerator to compile them for."""

import numpy as np
import pytest
import torch
from PIL import Image

from imgcls import draws, machine
from imgcls.augmentation import PLANS, DeviceHalf
from imgcls.resident import Resident, weights

kernels = pytest.importorskip("imgcls.kernels", exc_type=ImportError)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LAYOUTS = [torch.channels_last, torch.contiguous_format]


class Halved:
    """A processor that gives -1..1."""

    def __call__(self, images: Image.Image, return_tensors: str) -> dict:
        return {"pixel_values": torch.from_numpy(np.asarray(images) / 127.5 - 1).permute(2, 0, 1)[None].float()}


def test_photos_are_picked_in_any_order():
    photos = torch.randint(0, 256, (5, 7, 3, 24), dtype=torch.uint8, device=DEVICE)
    indices = torch.tensor([3, 0, 3, 4], device=DEVICE)
    for kind in (torch.float16, torch.float32):
        assert torch.equal(kernels.picked(photos, indices, kind), photos[indices].to(kind))


@pytest.mark.parametrize("reach", [1.0, 2.0])
def test_weights_are_those_of_torch(reach):
    boxes = torch.tensor([[0, 5, 40, 9], [3, 3, 4, 4], [0, 0, 12, 33], [7, 1, 40, 40]], device=DEVICE)
    mirrored = torch.tensor([0.0, 1.0, 0.0, 1.0], device=DEVICE)
    for low, high in ((boxes[:, 0], boxes[:, 2]), (boxes[:, 1], boxes[:, 3])):
        given = (low, high, mirrored, 40, 12, reach)
        torch.testing.assert_close(kernels.weights(*given, torch.float32), weights(*given), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", [torch.uint8, torch.float16])
@pytest.mark.parametrize("plan", ["light", "standard", "heavy"])
def test_images_are_varied_as_by_torch(plan, kind):
    plan = PLANS[plan]
    drawn = torch.from_numpy(draws.variations(draws.uniform(1, [(0, i) for i in range(4)]), plan))
    pixels = torch.randint(0, 256, (4, 20, 3, 36), dtype=torch.uint8).transpose(1, 2)  # rows hold their colours
    for layout in LAYOUTS:
        half = DeviceHalf(Halved(), plan, 24, layout)
        expected = half(pixels if kind == torch.uint8 else pixels.float(), drawn)
        levels = [values.flatten().to(DEVICE) for values in (half.shift, half.scale)]
        given = (pixels.to(DEVICE, kind), drawn.to(DEVICE), *levels, layout)
        found = kernels.varied(*given, is_coloured=plan.colour > 0).cpu()
        assert found.is_contiguous(memory_format=layout)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_crops_are_the_same_with_kernels(monkeypatch):
    photos = [np.random.default_rng(i).integers(0, 256, (30 + i, 40 - i, 3), np.uint8) for i in range(3)]
    plain = Resident(photos, 3, (32, 40), torch.device("cpu"))
    indices, boxes = torch.tensor([0, 1, 2]), torch.tensor([[0, 0, 40, 30], [5, 3, 20, 31], [1, 2, 38, 12]])
    mirrored = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    with_kernels = Resident(photos, 3, (32, 40), DEVICE)
    monkeypatch.setattr(with_kernels, "kernels", kernels)
    for resample in (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC):
        expected = plain.crops(indices, boxes, mirrored, 16, resample)
        found = with_kernels.crops(*(t.to(DEVICE) for t in (indices, boxes, mirrored)), 16, resample)
        assert (found.cpu().float() - expected).abs().max() < 0.3  # half precision


def test_machines_without_a_compiler_use_torch_and_say_so(monkeypatch, caplog):
    caplog.set_level("INFO", logger="imgcls")
    kernels.check(DEVICE)
    check = kernels.check
    monkeypatch.setattr(machine, "accelerator", lambda: "cuda")
    monkeypatch.setattr(kernels, "check", lambda device: check(DEVICE))
    assert machine.kernels.__wrapped__() is kernels

    def none(device):
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")

    monkeypatch.setattr(kernels, "check", none)
    assert machine.kernels.__wrapped__() is None
    assert caplog.messages == ["kernels: torch's, since Triton compiles none here (Failed to find C compiler.)"]
    monkeypatch.setattr(machine, "accelerator", lambda: None)
    assert machine.kernels.__wrapped__() is None
