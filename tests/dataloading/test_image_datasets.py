"""Samples with and without cached photos: equal values, each file decoded once; thumbnails of the data check."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from drawings import photo
from picture_datasets import (
    CACHE_PX,
    KEYS,
    KINDS,
    PX,
    assert_samples_equal,
    load_processor,
    open_cache,
    rows_of,
    training_dataset,
)
from PIL import Image
from torch.utils.data import DataLoader

from imgcls.audit import audit
from imgcls.config.model_options import AugmentOptions
from imgcls.data import decoding
from imgcls.data.listing import ImageFile
from imgcls.dataloading import processor_spec
from imgcls.dataloading.augmentation import PARAM_COLUMNS, PARAMS_PER_IMAGE, PLANS, make_augmentation_plan
from imgcls.dataloading.image_datasets import (
    THUMBNAIL_SETTINGS,
    EvaluationDataset,
    caching_thumbnails,
    collate,
)
from imgcls.dataloading.preprocessing import evaluation_pixels
from imgcls.dataloading.sampler import EpochSampler
from imgcls.models.losses import PADDING_LABEL
from imgcls.storage.pixel_cache import PixelCache, cache_key


def test_training_samples_depend_on_seed_epoch_and_index_alone(rows):
    datasets = [training_dataset(rows, cache_px=None, seed=seed) for seed in (1, 1, 2)]
    first, again, other = (dataset[3, 2, True] for dataset in datasets)
    assert torch.equal(first["pixel_values"], again["pixel_values"])
    assert first["augmentation_params"] == again["augmentation_params"]
    assert first["pixel_values"].dtype == torch.uint8
    assert first["augmentation_params"] != other["augmentation_params"]
    assert first["augmentation_params"] != datasets[0][4, 2, True]["augmentation_params"]
    assert (first["labels"], datasets[0][3, 2, False]["labels"]) == (0, PADDING_LABEL)


@pytest.mark.parametrize("name", ["resnet-18", "efficientnet-b0"])  # resized by torch, and by Pillow
@pytest.mark.parametrize("plan", ["none", "light"])
def test_training_samples_are_flipped_by_their_parameters(rows, plan, name):
    flipped = training_dataset(rows, name=name, plan=replace(PLANS[plan], flip="both"), cache_px=None)
    plain = training_dataset(rows, name=name, plan=PLANS[plan], cache_px=None)
    combinations = set()
    for key in [(epoch, index, True) for epoch in range(4) for index in range(6)]:
        sample = flipped[key]
        flips = sample["augmentation_params"][PARAM_COLUMNS.flips]
        combinations.add(tuple(flips))
        axes = [axis for axis, is_flipped in zip((-1, -2), flips, strict=True) if is_flipped]
        assert torch.equal(sample["pixel_values"], plain[key]["pixel_values"].flip(axes))
    assert len(combinations) == 4


@pytest.mark.parametrize("name", ["trivialaugment", "randaugment"])
def test_training_samples_of_a_policy_depend_on_seed_epoch_and_index_alone(rows, name):
    plan = make_augmentation_plan(AugmentOptions(augment="light", flip="none", **{name: True}))
    dataset = training_dataset(rows, plan=plan, cache_px=None)
    plain = training_dataset(rows, plan=PLANS["light"], cache_px=None)
    first = [dataset[0, i, True]["pixel_values"] for i in range(6)]
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert all(torch.equal(dataset[0, i, True]["pixel_values"], pixels) for i, pixels in enumerate(first))
    assert torch.equal(torch.get_rng_state(), state)
    assert any(not torch.equal(plain[0, i, True]["pixel_values"], pixels) for i, pixels in enumerate(first))


def test_collate_stacks_the_samples(rows):
    dataset = training_dataset(rows, plan=PLANS["standard"], cache_px=None)
    batch = collate([dataset[0, i, True] for i in range(4)])
    assert batch["pixel_values"].shape == (4, 3, PX, PX)
    assert batch["labels"].tolist() == [0, 1, 0, 1]
    assert batch["augmentation_params"].shape == (4, PARAMS_PER_IMAGE)


@pytest.mark.parametrize("kind", KINDS)
def test_training_samples_are_equal_with_and_without_cache(rows, folder, kind):
    expected = training_dataset(rows, **KINDS[kind]).__getitems__(KEYS)
    dataset = training_dataset(rows, folder, **KINDS[kind])
    assert_samples_equal(dataset.__getitems__(KEYS), expected)  # the cache is empty
    assert list(folder.glob("*.pack"))
    assert_samples_equal(dataset.__getitems__(KEYS), expected)
    assert_samples_equal(training_dataset(rows, folder, **KINDS[kind]).__getitems__(KEYS), expected)
    assert_samples_equal([dataset[key] for key in KEYS], expected)


def read_epochs(dataset, epochs):
    sampler = EpochSampler(len(dataset), 4, seed=1)
    loader = DataLoader(dataset, batch_size=4, sampler=sampler, collate_fn=collate)
    for epoch in epochs:
        sampler.epoch = epoch
        for batch in loader:
            assert batch["pixel_values"].shape[0] == 4


@pytest.mark.parametrize("kind", ["heavy", "padded", "not cropped"])
def test_training_decodes_a_cached_photo_once_over_epochs_and_runs(rows, folder, pictures, decoded, kind):
    once = {Path(file).name: 1 for file in pictures}
    read_epochs(training_dataset(rows, folder, **KINDS[kind]), (0, 1))
    assert decoded == once
    read_epochs(training_dataset(rows, folder, **KINDS[kind]), (0, 1))
    assert decoded == once
    read_epochs(training_dataset(rows, **KINDS[kind]), (0,))
    assert sum(decoded.values()) == len(once) + 8  # without cache: a full epoch


def test_training_does_not_use_photos_cached_for_another_size(rows, folder):
    for cache_px in (CACHE_PX, 100, 60):
        expected = training_dataset(rows, cache_px=cache_px).__getitems__(KEYS)
        assert_samples_equal(training_dataset(rows, folder, cache_px=cache_px).__getitems__(KEYS), expected)


def test_training_decodes_a_changed_photo_again(tmp_path, folder, decoded):
    file = tmp_path / "a.png"
    for seed in (1, 2):
        photo(90, 80, seed).save(file)
        os.utime(file, (seed, seed))
        rows = rows_of([str(file)])
        assert_samples_equal([training_dataset(rows, folder)[0, 0, True]], [training_dataset(rows)[0, 0, True]])
    assert decoded["a.png"] == 4


def test_key_of_an_image_without_file_is_its_name(pictures, folder, decoded):
    images = [{"path": None, "bytes": Path(file).read_bytes()} for file in pictures]
    names = [f"owner/name@1/train/{i}" for i in range(len(images))]
    expected = training_dataset(rows_of(images)).__getitems__(KEYS)
    decoded.clear()
    for _ in range(2):
        dataset = training_dataset(rows_of(images), folder, cache_keys=names)
        assert_samples_equal([dataset[key] for key in KEYS], expected)
    assert decoded["bytes"] == len(images)
    renamed = [name.replace("@1", "@2") for name in names]
    other = training_dataset(rows_of(images[::-1]), folder, cache_keys=renamed).__getitems__(KEYS)
    assert_samples_equal(other, training_dataset(rows_of(images[::-1])).__getitems__(KEYS))
    nameless = rows_of(images)
    for rows in (nameless, nameless.select(range(5, -1, -1))):
        assert_samples_equal(
            training_dataset(rows, folder).__getitems__(KEYS), training_dataset(rows).__getitems__(KEYS)
        )


@pytest.mark.parametrize("aspect", [None, "pad"])
@pytest.mark.parametrize("name", ["resnet-18", "vit-base", "mobilenetv3-small"])
def test_evaluation_is_exact_and_decodes_each_photo_once(rows, pictures, folder, decoded, name, aspect):
    processor = load_processor(name, 64, aspect)
    expected = [{"pixel_values": evaluation_pixels(f, processor), "labels": i % 2} for i, f in enumerate(pictures)]
    decoded.clear()
    order = [3, 0, 5, 1, 2, 4]
    for _ in range(2):
        dataset = EvaluationDataset(rows, processor, cache=open_cache(folder))
        for _ in range(2):
            assert_samples_equal(dataset.__getitems__(order), [expected[i] for i in order])
            assert_samples_equal([dataset[2]], [expected[2]])
    assert decoded == {Path(file).name: 1 for file in pictures}


def test_evaluation_with_another_processor_uses_no_cached_pixels(rows, pictures, folder):
    processors = [
        load_processor(name, px, aspect)
        for name in ("resnet-18", "vit-base", "vit-small-msn", "efficientnet-b0", "mobilenetv3-small")
        for px, aspect in ((64, None), (96, None), (64, "crop"), (64, "squash"))
    ]
    outputs = set()
    for processor in processors:
        samples = EvaluationDataset(rows, processor, cache=open_cache(folder)).__getitems__(range(6))
        pixels = torch.stack([sample["pixel_values"] for sample in samples])
        assert torch.equal(pixels, torch.stack([evaluation_pixels(file, processor) for file in pictures]))
        outputs.add(pixels.numpy().tobytes())
    assert len(outputs) > 12, "too similar to prove anything"


def test_evaluation_caches_under_the_right_settings_while_another_thread_computes_them(rows, folder, monkeypatch):
    dataset = EvaluationDataset(rows, load_processor("resnet-18", 64), cache=open_cache(folder))
    version, between = processor_spec.version, []

    def interrupted(library):
        if not between:
            between.append(None)
            between[0] = dataset[1]
        return version(library)

    monkeypatch.setattr(processor_spec, "version", interrupted)
    dataset.__getitems__(range(6))
    assert dataset.cache.count([dataset.key(i, "") for i in range(6)]) == 0
    assert dataset.is_cached
    assert_samples_equal([between[0]], [dataset[1]])


@pytest.mark.parametrize("before", [0, 4, 6])
def test_cache_progress_is_the_fraction_of_missing_photos(rows, folder, before):
    training_dataset(rows, folder).__getitems__([(0, index, True) for index in range(before)])
    dataset = training_dataset(rows, folder)
    fractions = [dataset.cache_progress()]
    for index in range(6):
        dataset[0, index, True]
        fractions.append(dataset.cache_progress())
    missing = 6 - before
    assert fractions == pytest.approx([max(0, count - before) / missing if missing else 1.0 for count in range(7)])


def test_evaluation_with_cache_px_uses_the_photos_of_training(rows, folder, decoded):
    processor = load_processor("resnet-18", 64)
    training_dataset(rows, folder).__getitems__(KEYS)
    decoded.clear()
    samples = EvaluationDataset(rows, processor, cache=open_cache(folder), cache_px=CACHE_PX).__getitems__(range(6))
    assert not decoded
    for sample, row in zip(samples, rows, strict=True):
        shrunk = decoding.load_shrunk(row["image"]["path"], CACHE_PX)
        expected = processor(images=shrunk, return_tensors="pt")["pixel_values"][0]
        assert torch.equal(sample["pixel_values"], expected)


@pytest.mark.parametrize("cache_px", [384, 352])
def test_caching_thumbnails_saves_training_from_decoding_again(tmp_path, folder, decoded, cache_px):
    files = [str(tmp_path / f"{i}.jpg") for i in range(3)]
    for file, size in zip(files, [(4000, 3000), (3000, 4000), (1600, 1200)], strict=True):
        photo(size[0] // 8, size[1] // 8, 1).resize(size).save(file, quality=80)
    rotated = Image.open(files[1])
    exif = rotated.getexif()
    exif[0x0112] = 6
    rotated.save(files[1], exif=exif, quality=80)
    rows = rows_of(files)
    plain = training_dataset(rows, cache_px=cache_px).shrunk_photos(range(3))
    decoded.clear()
    cache = open_cache(folder)
    audit.run_audit(
        [ImageFile(f, "a") for f in files],
        files,
        files.__getitem__,
        False,
        on_decoded=caching_thumbnails(cache, files),
    )
    dataset = training_dataset(rows, folder, plan=PLANS["light"], cache_px=cache_px)
    shrunk = dataset.shrunk_photos(range(3))
    assert all(np.array_equal(*pair) for pair in zip(shrunk, plain, strict=True))
    assert decoded == {"bytes": 3, "2.jpg": 1}  # by the check, and a photo of which an eighth is too small
    assert [min(photo.shape[:2]) for photo in shrunk] == [min(cache_px, 375), min(cache_px, 375), cache_px]


@pytest.mark.parametrize(
    ("decoded_px", "photo_px", "is_cached"),
    [
        ((500, 375), (4000, 3000), True),
        ((500, 375), (3999, 2998), True),  # rounded up
        ((500, 375), (500, 375), False),  # in full
        ((1000, 750), (4000, 3000), False),  # at a quarter
        ((300, 200), (2400, 1600), False),  # too small
        ((1000, 750), (8000, 6000), False),  # too large
    ],
)
def test_caching_thumbnails_adds_eighths_of_a_useful_size(folder, decoded_px, photo_px, is_cached):
    cache = PixelCache(folder, 10**7)
    caching_thumbnails(cache, ["a"])(0, Image.new("RGB", decoded_px), photo_px)
    assert cache.count([cache_key("a", THUMBNAIL_SETTINGS)]) == is_cached


def test_caching_thumbnails_leaves_room_for_training(folder):
    cache = PixelCache(folder, 10 * 500 * 375 * 3)
    add = caching_thumbnails(cache, [str(i) for i in range(8)])
    for i in range(8):
        add(i, Image.new("RGB", (500, 375)), (4000, 3000))
    assert cache.count(cache_key(str(i), THUMBNAIL_SETTINGS) for i in range(8)) == 3


def test_caching_thumbnails_is_none_without_a_cache():
    assert caching_thumbnails(PixelCache(), []) is None
