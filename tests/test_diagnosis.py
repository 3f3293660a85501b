"""Findings, each where it holds and not where it does not."""

import math

import pytest

from imgcls import diagnosis


def numbers(matrix):
    return {"per_class": {f"class {i}": {} for i in range(len(matrix))}, "confusion_matrix": matrix}


SOUND = numbers([[5, 1], [0, 4]])


@pytest.mark.parametrize(
    ("pretrained", "is_demo", "images", "warned"),
    [(False, False, 9_999, True), (False, False, 10_000, False), (True, False, 100, False), (False, True, 100, False)],
)
def test_random_weights_on_few_images(pretrained, is_demo, images, warned):
    found = diagnosis.before_training(pretrained, is_demo, images)
    assert [f["code"] for f in found] == ["scratch_on_few_images"] * warned


@pytest.mark.parametrize(
    ("losses", "codes"),
    [
        ([0.7, 0.3], []),
        ([0.7, 0.69], ["loss_not_falling"]),  # ln 2 = 0.693
        ([0.7, math.nan], ["loss_not_finite"]),
        ([0.7, math.inf], ["loss_not_finite"]),
    ],
)
def test_the_course_of_the_loss(losses, codes):
    history = [{"loss": loss} for loss in losses] + [{"eval_loss": 9.0}]
    assert [f["code"] for f in diagnosis.after_training(history, SOUND)] == codes


def test_one_class_for_everything():
    (found,) = diagnosis.after_training([{"loss": 0.1}], numbers([[0, 6], [0, 4]]))
    assert found["code"] == "one_class_predicted"
    assert found["evidence"] == "all 10 validation images were called 'class 1'"
