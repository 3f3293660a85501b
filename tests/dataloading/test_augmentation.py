"""The device-side half of augmentation, policies and the mixing of batches."""

import numpy as np
import pytest
import torch
from drawings import photo
from PIL import Image
from transformers import MobileViTImageProcessor

from imgcls.config.model_options import AugmentOptions
from imgcls.dataloading.augmentation import (
    PARAM_COLUMNS,
    PARAMS_PER_IMAGE,
    AugmentationPlan,
    DeviceAugmentation,
    make_augmentation_plan,
    make_batch_mixing,
)
from imgcls.dataloading.processor_spec import ProcessorSpec
from imgcls.errors import OptionError
from imgcls.models import classifier, source

NEUTRAL = {"colour": (1.0, 1.0, 1.0)}


class Identity:
    """An image processor that only scales to 0..1."""

    def __call__(self, images, return_tensors):
        return {"pixel_values": torch.from_numpy(np.asarray(images) / 255).permute(2, 0, 1)[None].float()}


def augment(batch, plan, **values):
    """The batch augmented with these parameters. values: columns of ParamColumns; the others change nothing."""
    params = torch.zeros(1, PARAMS_PER_IMAGE)
    for name, value in {**NEUTRAL, **values}.items():
        params[:, getattr(PARAM_COLUMNS, name)] = torch.tensor(value)
    return DeviceAugmentation(ProcessorSpec(Identity()), AugmentationPlan(**plan))(batch, params)


@pytest.fixture
def batch():
    return torch.from_numpy(np.asarray(photo(32, 32, 5)).copy()).permute(2, 0, 1)[None]


def test_device_augmentation_normalises_as_the_processor(checkpoint):
    name, folder = checkpoint
    built = classifier.build_classifier(source.resolve_model(str(folder)), ["a", "b"])
    augmentation = DeviceAugmentation(ProcessorSpec(built.processor), AugmentationPlan())
    for colour in [(1, 2, 3), (200, 100, 50), (90, 180, 254)]:
        plain = Image.new("RGB", (built.image_px,) * 2, colour)
        expected = built.processor(images=plain, return_tensors="pt")["pixel_values"]
        batch = torch.tensor(colour, dtype=torch.uint8).view(1, 3, 1, 1).expand(expected.shape)
        assert (augmentation(batch, torch.zeros(1, PARAMS_PER_IMAGE)) - expected).abs().max() < 1e-5, name


@pytest.mark.parametrize("plan", [{}, {"colour": 0.4}])
def test_device_augmentation_orders_channels_as_the_processor(plan):
    mean = [0.4, 0.5, 0.6]
    processor = MobileViTImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    normalising = MobileViTImageProcessor(**processor.to_dict() | {"do_normalize": True, "image_mean": mean})
    picture = photo(64, 64, 3)
    batch = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None]
    for each in (processor, normalising):
        spec = ProcessorSpec(each)
        assert spec.is_bgr
        params = torch.zeros(1, PARAMS_PER_IMAGE)
        params[:, PARAM_COLUMNS.colour] = 1.0
        augmented = DeviceAugmentation(spec, AugmentationPlan(**plan))(batch, params)
        torch.testing.assert_close(augmented[0], spec.pixel_values(picture), atol=1e-4, rtol=0)


def test_device_augmentation_with_neutral_parameters_changes_nothing(batch):
    augmented = augment(batch, {"degrees": 20, "colour": 0.4, "erase": 1.0})
    assert (augmented - batch / 255).abs().max() < 2e-3  # resampling by grid_sample


def test_device_augmentation_applies_each_parameter(batch):
    plain = batch / 255
    close = {"atol": 1e-4, "rtol": 0}
    rotated = augment(batch, {"degrees": 180}, degrees=90.0)
    assert min((rotated - torch.rot90(plain, k, (-2, -1))).abs().max() for k in (1, 3)) < 2e-3
    dimmed = augment(batch, {"colour": 0.5}, colour=(0.5, 1.0, 1.0))
    torch.testing.assert_close(dimmed, plain / 2, **close)
    gray = augment(batch, {"colour": 1}, colour=(1.0, 1.0, 0.0))
    assert (gray.amax(1) - gray.amin(1)).abs().max() < 1e-4
    flat = augment(batch, {"colour": 1}, colour=(1.0, 0.0, 1.0))
    assert flat.std() < 1e-4
    erased = augment(batch, {"erase": 1.0}, erased_box=(0.25, 0.5, 0.5, 1.0))
    assert erased[..., 16:, 8:16].abs().max() == 0
    torch.testing.assert_close(erased[..., :16, :], plain[..., :16, :], **close)


@pytest.mark.parametrize("name", ["trivialaugment", "randaugment"])
def test_make_augmentation_plan_rejects_a_policy_without_crops(name):
    with pytest.raises(OptionError, match="--augment light"):
        make_augmentation_plan(AugmentOptions(augment="none", flip="none", **{name: True}))


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.2, 0), (0, 1.0), (0.2, 1.0)])
def test_make_batch_mixing_blends_images_in_proportion_to_their_soft_labels(mixup, cutmix):
    torch.manual_seed(0)
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 32, 32)
    mixed, soft_labels = make_batch_mixing(mixup, cutmix)(images, torch.eye(4))
    torch.testing.assert_close(soft_labels.sum(1), torch.ones(4))
    torch.testing.assert_close(mixed.mean((1, 2, 3)), soft_labels @ torch.arange(4.0))
    assert make_batch_mixing(0, 0) is None
