"""What training and evaluation are shown of kept photos: the same samples, cold or warm, each file decoded once."""

import os
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from drawings import photo
from PIL import Image
from torch.utils.data import DataLoader

from imgcls.audit import audit
from imgcls.config import recipes
from imgcls.config.model_options import AugmentOptions
from imgcls.data import decoding
from imgcls.data.listing import ImageFile
from imgcls.dataloading import image_datasets, processor_spec, random_params
from imgcls.dataloading.augmentation import PARAMS_PER_IMAGE, PLANS, make_augmentation_plan
from imgcls.dataloading.crops import CropSpec, integer_boxes
from imgcls.dataloading.gpu_images import GpuCropDataset
from imgcls.dataloading.image_datasets import EvaluationDataset, TrainingDataset, collate
from imgcls.dataloading.preprocessing import evaluation_pixels
from imgcls.dataloading.processor_spec import ProcessorSpec
from imgcls.dataloading.sampler import EpochSampler
from imgcls.models import input_size, model_config, source
from imgcls.storage.pixel_cache import PixelCache, cache_key

SIZES = [(160, 120), (120, 170), (150, 150), (40, 50), (300, 90), (97, 131)]
SHORT_PX, PX = 72, 48
POLICY = make_augmentation_plan(AugmentOptions(augment="light", flip="both", trivialaugment=True))


def processor_of(name, px=64, aspect=None):
    config, processor = model_config.load_config(source.resolve_model(name))
    processor = input_size.with_input_size(config, processor, px)
    return input_size.with_aspect(config, processor, aspect) if aspect else processor


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Files of different shapes, the fourth smaller than what is kept, half of them JPEGs."""
    folder = tmp_path_factory.mktemp("pictures")
    files = []
    for i, size in enumerate(SIZES):
        files.append(str(folder / f"{i}.{'jpg' if i % 2 else 'png'}"))
        photo(*size, seed=i).save(files[-1])
    return files


@pytest.fixture(scope="module")
def rows(pictures):
    return rows_of([{"path": file, "bytes": None} for file in pictures])


def rows_of(shown):
    return datasets.Dataset.from_dict({"image": shown, "label": [i % 2 for i in range(len(shown))]})


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "pixels"


@pytest.fixture
def decoded(monkeypatch):
    """How often each file was decoded, by whatever way."""
    count, to_rgb = Counter(), decoding.to_rgb

    def counting(image, at_least=None):
        count[Path(image.filename).name if getattr(image, "filename", "") else "bytes"] += 1
        return to_rgb(image, at_least)

    monkeypatch.setattr(decoding, "to_rgb", counting)
    return count


def kept(folder):
    return PixelCache(folder, 10**9)


def training(
    rows, folder=None, *, name="resnet-18", plan=PLANS["heavy"], padded=False, cache_px=SHORT_PX, cache_keys=None
):
    pixels = kept(folder) if folder else PixelCache()
    processor = processor_of(name)
    crop = CropSpec(PX, ProcessorSpec(processor).resample, padded, cache_px)
    return TrainingDataset(rows, processor, plan, crop, 5, cache=pixels, cache_keys=cache_keys)


def assert_equal(samples, others):
    for sample, other in zip(samples, others, strict=True):
        assert sample.keys() == other.keys()
        for name, value in sample.items():
            is_equal = torch.equal(value, other[name]) if torch.is_tensor(value) else value == other[name]
            assert is_equal, name


KEYS = [(epoch, index, index != 2) for epoch in (0, 3) for index in (4, 2, 0, 5, 1, 3)]
WAYS = {
    "heavy": {},
    "light, nearest": {"plan": PLANS["light"], "name": "efficientnet-b0"},
    "bilinear": {"plan": PLANS["standard"], "name": "vit-base"},
    "padded": {"padded": True},
    "policy": {"plan": POLICY},
    "not cropped": {"plan": PLANS["none"]},
}


@pytest.mark.parametrize("way", WAYS)
def test_samples_are_the_same_kept_or_not(rows, folder, way):
    expected = training(rows, **WAYS[way]).__getitems__(KEYS)
    view = training(rows, folder, **WAYS[way])
    assert_equal(view.__getitems__(KEYS), expected)  # nothing is kept yet
    assert list(folder.glob("*.pack"))
    assert_equal(view.__getitems__(KEYS), expected)
    assert_equal(training(rows, folder, **WAYS[way]).__getitems__(KEYS), expected)
    assert_equal([view[key] for key in KEYS], expected)


def run_of(view, epochs):
    sampler = EpochSampler(len(view), 4, seed=1)
    loader = DataLoader(view, batch_size=4, sampler=sampler, collate_fn=collate)
    for epoch in epochs:
        sampler.epoch = epoch
        for batch in loader:
            assert batch["pixel_values"].shape[0] == 4


@pytest.mark.parametrize("way", ["heavy", "padded", "not cropped"])
def test_a_training_photo_is_decoded_once_over_epochs_and_runs(rows, folder, pictures, decoded, way):
    once = {Path(file).name: 1 for file in pictures}
    run_of(training(rows, folder, **WAYS[way]), (0, 1))
    assert decoded == once
    run_of(training(rows, folder, **WAYS[way]), (0, 1))
    assert decoded == once
    run_of(training(rows, **WAYS[way]), (0,))
    assert sum(decoded.values()) == len(once) + 8  # nothing is kept: a full epoch


def test_photos_kept_for_one_size_are_not_shown_for_another(rows, folder):
    for short_px in (SHORT_PX, 100, 60):
        expected = training(rows, cache_px=short_px).__getitems__(KEYS)
        assert_equal(training(rows, folder, cache_px=short_px).__getitems__(KEYS), expected)


def test_a_photo_that_changed_is_decoded_anew(tmp_path, folder, decoded):
    file = tmp_path / "a.png"
    for seed in (1, 2):
        photo(90, 80, seed).save(file)
        os.utime(file, (seed, seed))
        rows = rows_of([{"path": str(file), "bytes": None}])
        assert_equal([training(rows, folder)[0, 0, True]], [training(rows)[0, 0, True]])
    assert decoded["a.png"] == 4


def test_images_without_files_are_kept_by_their_names(pictures, folder, decoded):
    shown = [{"path": None, "bytes": Path(file).read_bytes()} for file in pictures]
    names = [f"owner/name@1/train/{i}" for i in range(len(shown))]
    expected = training(rows_of(shown)).__getitems__(KEYS)
    decoded.clear()
    for _ in range(2):
        view = training(rows_of(shown), folder, cache_keys=names)
        assert_equal([view[key] for key in KEYS], expected)
    assert decoded["bytes"] == len(shown)
    turned = [name.replace("@1", "@2") for name in names]
    other = training(rows_of(shown[::-1]), folder, cache_keys=turned).__getitems__(KEYS)
    assert_equal(other, training(rows_of(shown[::-1])).__getitems__(KEYS))
    nameless = rows_of(shown)
    for some in (nameless, nameless.select(range(5, -1, -1))):
        assert_equal(training(some, folder).__getitems__(KEYS), training(some).__getitems__(KEYS))


# Boxes in place of pixels


def test_photos_reside_only_once_all_are_kept_and_only_where_crops_can_be_made_there(rows, folder):
    view = training(rows, folder)
    assert not GpuCropDataset(view).is_possible
    view.__getitems__(KEYS[:5])
    assert not GpuCropDataset(view).is_possible
    view.__getitems__(KEYS)
    assert GpuCropDataset(view).is_possible
    assert GpuCropDataset(training(rows, folder, name="vit-base")).is_possible  # bilinear
    for way in ("light, nearest", "padded", "policy", "not cropped"):
        view = training(rows, folder, **WAYS[way])
        view.__getitems__(KEYS)
        assert not GpuCropDataset(view).is_possible, way
    assert not GpuCropDataset(training(rows, folder, cache_px=None)).is_possible
    assert not GpuCropDataset(training(rows)).is_possible


@pytest.mark.parametrize("name", ["resnet-18", "vit-base"])
def test_boxes_show_what_the_pixels_dealt_otherwise_show(rows, folder, decoded, name):
    view = training(rows, folder, name=name, plan=replace(PLANS["heavy"], flip="both"))
    dealt = collate([view[key] for key in KEYS])
    assert len(dealt["augmentation_params"][:, :2].unique(dim=0)) == 4
    boxes = GpuCropDataset(view)
    resident = boxes.load(torch.device("cpu"))
    count = sum(decoded.values())
    batch = collate(boxes.__getitems__(KEYS))
    assert batch.keys() == {"labels", "indices", "boxes", "augmentation_params"}
    assert batch["indices"].tolist() == [index for _, index, _ in KEYS]
    assert batch["boxes"].shape == (len(KEYS), 4)
    assert not batch["boxes"].is_floating_point()
    assert torch.equal(batch["labels"], dealt["labels"])
    assert torch.equal(batch["augmentation_params"], dealt["augmentation_params"])
    assert batch["augmentation_params"].shape == (len(KEYS), PARAMS_PER_IMAGE)
    crops = resident.crops(batch["indices"], batch["boxes"], batch["augmentation_params"][:, :2], view.crop)
    assert (crops.round() - dealt["pixel_values"].float()).abs().max() <= 1
    assert resident.photos.nbytes == boxes.required_bytes
    assert sum(decoded.values()) == count == len(SIZES)


# Evaluation


@pytest.mark.parametrize("aspect", [None, "pad"])
@pytest.mark.parametrize("name", ["resnet-18", "vit-base", "mobilenetv3-small"])
def test_kept_evaluation_is_exact_and_decodes_each_photo_once(rows, pictures, folder, decoded, name, aspect):
    processor = processor_of(name, aspect=aspect)
    expected = [{"pixel_values": evaluation_pixels(f, processor), "labels": i % 2} for i, f in enumerate(pictures)]
    decoded.clear()
    order = [3, 0, 5, 1, 2, 4]
    for _ in range(2):
        view = EvaluationDataset(rows, processor, cache=kept(folder))
        for _ in range(2):
            assert_equal(view.__getitems__(order), [expected[i] for i in order])
            assert_equal([view[2]], [expected[2]])
    assert decoded == {Path(file).name: 1 for file in pictures}


def test_processors_that_give_other_values_share_nothing(rows, pictures, folder):
    processors = [
        processor_of(name, px, aspect)
        for name in ("resnet-18", "vit-base", "vit-small-msn", "efficientnet-b0", "mobilenetv3-small")
        for px, aspect in ((64, None), (96, None), (64, "crop"), (64, "squash"))
    ]
    given = set()
    for processor in processors:
        samples = EvaluationDataset(rows, processor, cache=kept(folder)).__getitems__(range(6))
        pixels = torch.stack([sample["pixel_values"] for sample in samples])
        assert torch.equal(pixels, torch.stack([evaluation_pixels(file, processor) for file in pictures]))
        given.add(pixels.numpy().tobytes())
    assert len(given) > 12, "too much alike to tell anything"


def test_evaluation_read_while_the_settings_are_computed_is_cached_under_them(rows, folder, monkeypatch):
    view, version = EvaluationDataset(rows, processor_of("resnet-18"), cache=kept(folder)), processor_spec.version
    between = []

    def interrupted(library):
        if not between:
            between.append(None)
            between[0] = view[1]
        return version(library)

    monkeypatch.setattr(processor_spec, "version", interrupted)
    view.__getitems__(range(6))
    assert view.cache.count([view.key(i, "") for i in range(6)]) == 0
    assert view.is_cached
    assert_equal([between[0]], [view[1]])


@pytest.mark.parametrize("before", [0, 4, 6])
def test_the_share_of_photos_that_are_kept_counts_what_was_missing(rows, folder, before):
    training(rows, folder).__getitems__([(0, index, True) for index in range(before)])
    view = training(rows, folder)
    shares = [view.cache_progress()]
    for index in range(6):
        view[0, index, True]
        shares.append(view.cache_progress())
    missing = 6 - before
    assert shares == pytest.approx([max(0, at - before) / missing if missing else 1.0 for at in range(7)])


def test_evaluation_of_shrunk_photos_uses_those_of_training(rows, folder, decoded):
    processor = processor_of("resnet-18")
    training(rows, folder).__getitems__(KEYS)
    decoded.clear()
    shown = EvaluationDataset(rows, processor, cache=kept(folder), cache_px=SHORT_PX).__getitems__(range(6))
    assert not decoded
    for sample, row in zip(shown, rows, strict=True):
        shrunk = decoding.load_shrunk(row["image"]["path"], SHORT_PX)
        expected = processor(images=shrunk, return_tensors="pt")["pixel_values"][0]
        assert torch.equal(sample["pixel_values"], expected)


# How large photos are kept


@pytest.mark.parametrize("px", [(224, 224), (288, 192), (160, 160), (384, 256)])
@pytest.mark.parametrize("plan", ["light", "standard", "heavy"])
def test_crops_of_kept_photos_are_hardly_enlarged(plan, px):
    image_px, train_px = px
    share, draw = PLANS[plan].crop_area, random.Random(f"{plan} {px}")
    short = recipes.cache_px(image_px, train_px, share[0]).value
    assert short >= image_px * 8 / 7
    sizes = []
    for _ in range(2000):
        size = (short, round(short * draw.choice([1, 1.1, 4 / 3, 3 / 2, 16 / 9, 3])))
        sizes.append(size[:: draw.choice([1, -1])])
    numbers = np.random.default_rng(0).random((len(sizes), random_params.UNIFORMS_PER_IMAGE))
    boxes = integer_boxes(random_params.crop_boxes(numbers, np.array(sizes), share), np.array(sizes))
    smallest = min(short, (boxes[:, 2:] - boxes[:, :2]).min())
    assert smallest >= 0.86 * train_px  # the most elongated: a square of that area has as many px as the crop


# What the check decodes


@pytest.mark.parametrize("short_px", [384, 352])
def test_photos_that_the_check_decoded_are_not_decoded_again(tmp_path, folder, decoded, short_px):
    files = [str(tmp_path / f"{i}.jpg") for i in range(3)]
    for file, size in zip(files, [(4000, 3000), (3000, 4000), (1600, 1200)], strict=True):
        photo(size[0] // 8, size[1] // 8, 1).resize(size).save(file, quality=80)
    turned = Image.open(files[1])
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(files[1], exif=exif, quality=80)
    task = rows_of([{"path": file, "bytes": None} for file in files])
    plain = training(task, cache_px=short_px).shrunk_photos(range(3))
    decoded.clear()
    pixels = kept(folder)
    audit.run_audit(
        [ImageFile(f, "a") for f in files],
        files,
        files.__getitem__,
        False,
        seen=image_datasets.caching_thumbnails(pixels, files),
    )
    view = TrainingDataset(
        task,
        processor_of("resnet-18"),
        PLANS["light"],
        CropSpec(PX, Image.Resampling.BICUBIC, False, short_px),
        5,
        cache=pixels,
    )
    shrunk = view.shrunk_photos(range(3))
    assert all(np.array_equal(*pair) for pair in zip(shrunk, plain, strict=True))
    assert decoded == {"bytes": 3, "2.jpg": 1}  # the check's, and a photo of which an eighth is too small
    assert [min(photo.shape[:2]) for photo in shrunk] == [min(short_px, 375), min(short_px, 375), short_px]


@pytest.mark.parametrize(
    ("decoded_px", "photo_px", "is_kept"),
    [
        ((500, 375), (4000, 3000), True),
        ((500, 375), (3999, 2998), True),  # rounded up
        ((500, 375), (500, 375), False),  # in full
        ((1000, 750), (4000, 3000), False),  # at a quarter
        ((300, 200), (2400, 1600), False),  # too small
        ((1000, 750), (8000, 6000), False),  # too large
    ],
)
def test_a_check_keeps_eighths_that_are_of_use(folder, decoded_px, photo_px, is_kept):
    pixels = PixelCache(folder, 10**7)
    image_datasets.caching_thumbnails(pixels, ["a"])(0, Image.new("RGB", decoded_px), photo_px)
    assert pixels.count([cache_key("a", image_datasets.THUMBNAIL_SETTINGS)]) == is_kept


def test_eighths_leave_room_for_training(folder):
    pixels = PixelCache(folder, 10 * 500 * 375 * 3)
    keep = image_datasets.caching_thumbnails(pixels, [str(i) for i in range(8)])
    for i in range(8):
        keep(i, Image.new("RGB", (500, 375)), (4000, 3000))
    assert pixels.count(cache_key(str(i), image_datasets.THUMBNAIL_SETTINGS) for i in range(8)) == 3


def test_nothing_is_kept_of_a_check_without_a_cache():
    assert image_datasets.caching_thumbnails(PixelCache(), []) is None
