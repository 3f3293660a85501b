"""Random parameters: what they depend on, and that they stay within their ranges."""

from dataclasses import replace

import numpy as np
import pytest

from imgcls.dataloading.augmentation import PARAM_COLUMNS, PARAMS_PER_IMAGE, PLANS
from imgcls.dataloading.random_params import (
    CROP_ASPECT,
    GAMMA,
    UNIFORM_COLUMNS,
    UNIFORMS_PER_IMAGE,
    _mix,
    augmentation_params,
    crop_boxes,
    uniform,
)

MANY = uniform(3, [(0, index) for index in range(4000)])


def test_uniform_gives_an_image_the_same_numbers_in_any_batch():
    keys = [(2, 7), (2, 0), (2, 10**7), (5, 7), (2, 7)]
    numbers = uniform(11, keys)
    assert numbers.shape == (5, UNIFORMS_PER_IMAGE)
    for row, key in zip(numbers, keys, strict=True):
        assert np.array_equal(uniform(11, [key])[0], row)
    assert len({tuple(row) for row in [*numbers, *uniform(12, keys)]}) == 8


def test_uniform_is_splitmix64():
    expected, state = [], 0  # as published by its authors, in Python's integers
    for _ in range(3):
        state = (state + int(GAMMA)) % 2**64
        mixed = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB % 2**64
        expected.append(mixed ^ mixed >> 31)
    assert expected[0] == 0xE220A8397B1DCDAF
    states = GAMMA * np.arange(3, dtype=np.uint64)
    assert _mix(states).tolist() == expected


def test_uniform_is_uniform_and_uncorrelated():
    assert 0 <= MANY.min() < 1e-4
    assert 1 - 1e-4 < MANY.max() < 1
    assert np.abs(MANY.mean(0) - 0.5).max() < 0.025
    neighbours = [np.corrcoef(MANY[:-1, i], MANY[1:, i])[0, 1] for i in range(UNIFORMS_PER_IMAGE)]
    assert np.abs(neighbours).max() < 0.08


@pytest.mark.parametrize("size", [(400, 300), (300, 400), (224, 224), (37, 48)])
def test_crop_boxes_lie_in_the_photo_with_the_area_and_aspect_asked_for(size):
    sizes = np.tile(size, (len(MANY), 1))
    left, top, right, bottom = crop_boxes(MANY, sizes, (0.35, 1.0)).T
    assert (left.min(), top.min()) == (0, 0)
    assert (right.max(), bottom.max()) == size
    areas, aspects = (right - left) * (bottom - top) / (size[0] * size[1]), (right - left) / (bottom - top)
    rounding = 1.5 / min(size)
    assert 0.35 - rounding < areas.min() < 0.37
    assert 0.97 < areas.max() <= 1
    assert CROP_ASPECT[0] * (1 - 2 * rounding) < aspects.min()
    assert aspects.max() < CROP_ASPECT[1] * (1 + 2 * rounding)
    free = size[0] - (right - left) > size[0] / 4
    places = (left / np.maximum(size[0] - (right - left), 1))[free]
    assert abs(places.mean() - 0.5) < 0.05  # not all to one side


def test_crop_boxes_are_the_largest_central_ones_where_no_try_fits():
    sizes = np.array([[1000, 40], [40, 1000], [1, 1], [3, 1]])
    boxes = crop_boxes(MANY[:4], sizes, (1.0, 1.0))
    widest = 40 * CROP_ASPECT[1]
    assert boxes[0] == pytest.approx([500 - widest / 2, 0, 500 + widest / 2, 40])
    assert boxes[1] == pytest.approx([0, 500 - widest / 2, 40, 500 + widest / 2])
    assert boxes[2].tolist() == [0, 0, 1, 1]
    assert (boxes[3] >= 0).all()


def test_crop_boxes_with_padding_are_of_the_square_around_the_photo():
    sizes = np.tile((120, 60), (len(MANY), 1))
    squares = np.tile((120, 120), (len(MANY), 1))
    assert np.array_equal(crop_boxes(MANY, sizes, (0.35, 1.0), padded=True), crop_boxes(MANY, squares, (0.35, 1.0)))


def test_augmentation_params_stay_within_their_plan():
    plan = PLANS["heavy"]
    params = augmentation_params(MANY, replace(plan, flip="both"))
    assert params.dtype == np.float32
    assert params[:, PARAM_COLUMNS.flips].mean(0) == pytest.approx([0.5, 0.5], abs=0.03)
    assert np.abs(params[:, PARAM_COLUMNS.degrees]).max() <= plan.degrees
    assert (params[:, PARAM_COLUMNS.degrees] == 0).mean() == pytest.approx(0.5, abs=0.03)
    colour = params[:, PARAM_COLUMNS.colour]
    assert (colour.min(), colour.max()) == pytest.approx((0.6, 1.4), abs=0.01)
    boxes = params[:, PARAM_COLUMNS.erased_box]
    left, top, right, bottom = boxes.T
    erased = right > 0
    assert erased.mean() == pytest.approx(plan.erase, abs=0.03)
    assert ((left < right) & (top < bottom))[erased].all()
    assert (boxes >= 0).all()
    assert (boxes <= 1).all()
    assert augmentation_params(MANY, replace(plan, flip="none"))[:, PARAM_COLUMNS.flips].max() == 0
    horizontal = augmentation_params(MANY, replace(plan, flip="horizontal"))[:, PARAM_COLUMNS.flips]
    assert horizontal.mean(0) == pytest.approx([0.5, 0], abs=0.03)


def test_columns_cover_every_number_once():
    for columns, count in ((PARAM_COLUMNS, PARAMS_PER_IMAGE), (UNIFORM_COLUMNS, UNIFORMS_PER_IMAGE)):
        numbers = np.arange(count)
        assert np.hstack([numbers[column] for column in columns]).tolist() == list(range(count))
