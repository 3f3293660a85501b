"""Evaluation pixels against the image processors themselves; crops, variation and order of training."""

from dataclasses import replace

import datasets
import numpy as np
import pytest
import timm
import tiny
import torch
from drawings import photo
from PIL import Image
from transformers import AutoImageProcessor

from imgcls.config.model_options import AugmentOptions
from imgcls.data import decoding
from imgcls.dataloading.augmentation import (
    PARAMS_PER_IMAGE,
    PLANS,
    AugmentationPlan,
    DeviceAugmentation,
    make_augmentation_plan,
    make_batch_mixing,
)
from imgcls.dataloading.crops import CropSpec, read_crop
from imgcls.dataloading.image_datasets import TrainingDataset, collate
from imgcls.dataloading.preprocessing import evaluation_pixels
from imgcls.dataloading.processor_spec import ProcessorSpec
from imgcls.dataloading.random_params import uniform
from imgcls.dataloading.sampler import EpochSampler
from imgcls.errors import OptionError
from imgcls.models import classifier, source
from imgcls.models.losses import PADDING_LABEL, balanced_class_weights

NAMES = sorted(tiny.HUB_IDS)
CLASSES = ["a", "b"]


@pytest.fixture(scope="module", params=NAMES)
def checkpoint(request, tmp_path_factory):
    return request.param, tiny.write(request.param, tmp_path_factory.mktemp(request.param))


def reference(name, folder, px):
    """Image -> pixels at another size, as each library's own documentation changes it, without our code."""
    if name == "mobilenetv3-small":
        settings = timm.data.resolve_data_config(
            {}, pretrained_cfg=AutoImageProcessor.from_pretrained(folder).data_config
        )
        if px:
            settings["input_size"] = (3, px, px)
        return timm.data.create_transform(**settings)
    edge = {"shortest_edge": px} if name.startswith("resnet") else {"height": px, "width": px}
    processor = AutoImageProcessor.from_pretrained(folder, **({"size": edge} if px else {}))
    return lambda image: processor(images=image, return_tensors="pt")["pixel_values"][0]


@pytest.mark.parametrize("px", [None, 160, 384])
def test_evaluation_pixels_are_the_image_processors(checkpoint, px, tmp_path):
    name, folder = checkpoint
    processor = classifier.build_classifier(source.resolve_model(str(folder)), CLASSES, image_px=px).processor
    expected = reference(name, folder, px)
    worst = 0.0
    for i, size in enumerate([(640, 480), (384, 512), (50, 80), (700, 100), (px or 224, px or 224)]):
        file = tmp_path / f"{i}.png"
        photo(*size, seed=i).save(file)
        ours = evaluation_pixels(str(file), processor)
        theirs = expected(Image.open(file).convert("RGB"))
        assert ours.shape == theirs.shape == (3, px or 224, px or 224)
        worst = max(worst, (ours - theirs).abs().max().item())
    print(f"{name:<18} {px or 'own'!s:<4} largest difference {worst:.1e}")
    assert worst <= 1e-6


def test_training_normalises_as_the_image_processor(checkpoint):
    name, folder = checkpoint
    built = classifier.build_classifier(source.resolve_model(str(folder)), CLASSES)
    half = DeviceAugmentation(ProcessorSpec(built.processor), AugmentationPlan())
    for colour in [(1, 2, 3), (200, 100, 50), (90, 180, 254)]:
        plain = Image.new("RGB", (built.image_px,) * 2, colour)
        expected = built.processor(images=plain, return_tensors="pt")["pixel_values"]
        batch = torch.tensor(colour, dtype=torch.uint8).view(1, 3, 1, 1).expand(expected.shape)
        assert (half(batch, torch.zeros(1, PARAMS_PER_IMAGE)) - expected).abs().max() < 1e-5, name


@pytest.fixture
def half(tmp_path):
    def of(**plan):
        return DeviceAugmentation(ProcessorSpec(Identity()), AugmentationPlan(**plan))

    return of


class Identity:
    """An image processor that only scales to 0..1."""

    def __call__(self, images, return_tensors):
        return {"pixel_values": torch.from_numpy(np.asarray(images) / 255).permute(2, 0, 1)[None].float()}


def draws(**values):
    names = ("mirror", "upside", "angle", "brightness", "contrast", "saturation", "left", "top", "right", "bottom")
    neutral = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0}
    return torch.tensor([[{**neutral, **values}.get(n, 0.0) for n in names]])


@pytest.fixture
def batch():
    return torch.from_numpy(np.asarray(photo(32, 32, 5)).copy()).permute(2, 0, 1)[None]


def test_neutral_draws_change_nothing(half, batch):
    varied = half(degrees=20, colour=0.4, erase=1.0)(batch, draws())
    assert (varied - batch / 255).abs().max() < 2e-3  # resampling by grid_sample


def test_each_draw_does_what_its_name_says(half, batch):
    plain = batch / 255
    close = {"atol": 1e-4, "rtol": 0}
    turned = half(degrees=180)(batch, draws(angle=90))
    assert min((turned - torch.rot90(plain, k, (-2, -1))).abs().max() for k in (1, 3)) < 2e-3
    dimmed = half(colour=0.5)(batch, draws(brightness=0.5))
    torch.testing.assert_close(dimmed, plain / 2, **close)
    gray = half(colour=1)(batch, draws(saturation=0.0))
    assert (gray.amax(1) - gray.amin(1)).abs().max() < 1e-4
    flat = half(colour=1)(batch, draws(contrast=0.0))
    assert flat.std() < 1e-4
    erased = half(erase=1.0)(batch, draws(left=0.25, top=0.5, right=0.5, bottom=1.0))
    assert erased[..., 16:, 8:16].abs().max() == 0
    torch.testing.assert_close(erased[..., :16, :], plain[..., :16, :], **close)


def test_crops_have_the_share_and_place_they_say(tmp_path):
    ramp = np.stack(np.broadcast_arrays(np.arange(256)[None, :], np.arange(256)[:, None], 0), -1).astype(np.uint8)
    file = tmp_path / "ramp.png"
    Image.fromarray(ramp).save(file)
    for numbers in uniform(0, [(0, index) for index in range(50)]):
        crop = read_crop(str(file), numbers, (0.35, 1.0), CropSpec(64, Image.Resampling.BILINEAR)).astype(float)
        width, height = (np.ptp(crop[..., i]) + 256 / 64 for i in (0, 1))  # the ramps tell how much was seen
        assert 0.3 < width * height / 256**2 <= 1.05
        assert 0.7 < width / height < 1.43


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_scaled_decode_shows_the_same_crop_as_a_full_one(tmp_path, monkeypatch, orientation):
    file = tmp_path / "photo.jpg"
    picture = photo(1200, 900, 3)
    exif = picture.getexif()
    exif[0x0112] = orientation
    picture.save(file, quality=95, exif=exif)

    def crop():
        return read_crop(
            str(file), uniform(4, [(0, 0)])[0], (0.35, 1.0), CropSpec(96, Image.Resampling.BILINEAR)
        ).astype(float)

    scaled = crop()
    to_rgb = decoding.to_rgb
    monkeypatch.setattr(decoding, "to_rgb", lambda image, at_least=None: to_rgb(image))
    full = crop()
    assert not np.array_equal(scaled, full)
    assert np.abs(scaled - full).mean() < 2


def rows(tmp_path, count=6):
    for i in range(count):
        photo(80, 60, i).save(tmp_path / f"{i}.png")
    images = [{"path": str(tmp_path / f"{i}.png"), "bytes": None} for i in range(count)]
    return datasets.Dataset.from_dict({"image": images, "label": [i % 2 for i in range(count)]})


def dataset(tmp_path, processor, plan, seed):
    return TrainingDataset(rows(tmp_path), processor, plan, CropSpec(48, ProcessorSpec(processor).resample), seed)


def test_training_samples_depend_on_seed_epoch_and_index_alone(tmp_path):
    processor = classifier.build_classifier(source.resolve_model("resnet-18"), CLASSES, from_scratch=True).processor
    views = [dataset(tmp_path, processor, PLANS["heavy"], seed) for seed in (1, 1, 2)]
    first, again, other = (view[3, 2, True] for view in views)
    assert torch.equal(first["pixel_values"], again["pixel_values"])
    assert first["augmentation_params"] == again["augmentation_params"]
    assert first["pixel_values"].dtype == torch.uint8
    assert first["augmentation_params"] != other["augmentation_params"]
    assert first["augmentation_params"] != views[0][4, 2, True]["augmentation_params"]
    assert (first["labels"], views[0][3, 2, False]["labels"]) == (0, PADDING_LABEL)


@pytest.mark.parametrize("name", ["resnet-18", "efficientnet-b0"])  # resized by torch, and by Pillow
@pytest.mark.parametrize("plan", ["none", "light"])
def test_samples_are_mirrored_as_drawn(tmp_path, plan, name):
    processor = classifier.build_classifier(source.resolve_model(name), CLASSES, from_scratch=True).processor
    mirrored = dataset(tmp_path, processor, replace(PLANS[plan], flip="both"), 0)
    plain = dataset(tmp_path, processor, PLANS[plan], 0)
    drawn = set()
    for key in [(epoch, index, True) for epoch in range(4) for index in range(6)]:
        found = mirrored[key]
        drawn.add(tuple(found["augmentation_params"][:2]))
        axes = [axis for axis, own in zip((-1, -2), found["augmentation_params"][:2], strict=True) if own]
        assert torch.equal(found["pixel_values"], plain[key]["pixel_values"].flip(axes))
    assert len(drawn) == 4


def test_collated_batches_have_the_shapes_promised(tmp_path):
    processor = classifier.build_classifier(source.resolve_model("resnet-18"), CLASSES, from_scratch=True).processor
    view = dataset(tmp_path, processor, PLANS["standard"], 0)
    batch = collate([view[0, i, True] for i in range(4)])
    assert batch["pixel_values"].shape == (4, 3, 48, 48)
    assert batch["labels"].tolist() == [0, 1, 0, 1]
    assert batch["augmentation_params"].shape == (4, PARAMS_PER_IMAGE)


@pytest.mark.parametrize(("size", "batch_images"), [(10, 4), (8, 4), (3, 8)])
def test_an_epoch_deals_each_image_once_in_full_batches(size, batch_images):
    sampler = EpochSampler(size, batch_images, seed=1)
    dealt = {}
    for epoch in (0, 1):
        sampler.epoch = epoch
        dealt[epoch] = list(sampler)
        assert len(dealt[epoch]) == len(sampler)
        assert len(sampler) % batch_images == 0
        assert sorted(index for _, index, counted in dealt[epoch] if counted) == list(range(size))
    assert list(sampler) == dealt[1]
    if size > 3:
        assert [i for _, i, _ in dealt[0]] != [i for _, i, _ in dealt[1]]


def test_balanced_draws_show_every_class_equally_often():
    labels = torch.tensor([0] * 900 + [1] * 100)
    sampler = EpochSampler(1000, 10, seed=1, weights=balanced_class_weights(labels, 2)[labels])
    shown = labels[[index for _, index, _ in sampler]].float().mean()
    assert 0.45 < shown < 0.55
    assert list(sampler) == list(sampler)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.2, 0), (0, 1.0), (0.2, 1.0)])
def test_mixing_keeps_the_mass_of_labels_and_mixes_images_by_it(mixup, cutmix):
    torch.manual_seed(0)
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 32, 32)
    shares = torch.eye(4)
    mixed, mixed_shares = make_batch_mixing(mixup, cutmix)(images, shares)
    torch.testing.assert_close(mixed_shares.sum(1), torch.ones(4))
    torch.testing.assert_close(mixed.mean((1, 2, 3)), mixed_shares @ torch.arange(4.0))
    assert make_batch_mixing(0, 0) is None


@pytest.mark.parametrize("name", ["trivialaugment", "randaugment"])
def test_a_policy_depends_on_seed_epoch_and_index_alone(tmp_path, name):
    processor = classifier.build_classifier(source.resolve_model("resnet-18"), CLASSES, from_scratch=True).processor
    options = AugmentOptions(augment="light", flip="none", **{name: True})
    view = dataset(tmp_path, processor, make_augmentation_plan(options), 0)
    plain = dataset(tmp_path, processor, PLANS["light"], 0)
    first = [view[0, i, True]["pixel_values"] for i in range(6)]
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert all(torch.equal(view[0, i, True]["pixel_values"], pixels) for i, pixels in enumerate(first))
    assert torch.equal(torch.get_rng_state(), state)
    assert any(not torch.equal(plain[0, i, True]["pixel_values"], pixels) for i, pixels in enumerate(first))
    with pytest.raises(OptionError, match="--augment light"):
        make_augmentation_plan(AugmentOptions(augment="none", flip="none", **{name: True}))
