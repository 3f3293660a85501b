"""Recommendations by rules."""

import pytest

from imgcls.models.registry import CHECKPOINTS
from imgcls.probing import model_rules
from imgcls.probing.model_rules import ModelRequest, recommend_by_rules


@pytest.mark.parametrize(
    ("request_", "images", "first"),
    [
        (ModelRequest("accuracy", "medical", "gpu"), 20_000, "vit-large"),
        (ModelRequest("accuracy", "general", "gpu"), 20_000, "vit-large"),
        (ModelRequest("training_speed", "general", "cpu"), 300, "resnet-18"),
        (ModelRequest("size", "general", "cpu"), 300, "mobilenetv3-small"),
        (ModelRequest("edge", "realtime", "edge"), 5_000, "mobilenetv3-small"),
        (ModelRequest("accuracy", "product", "cpu"), 5_000, "efficientnet-b0"),
        (ModelRequest("training_speed", "realtime", "gpu"), 300, "resnet-18"),
    ],
)
def test_recommend_by_rules_follows_priority_and_use_case(request_, images, first):
    recommendations = recommend_by_rules(request_, images)
    assert recommendations[0].model == first
    assert recommendations[0].reasons
    assert len(recommendations) == 8


def test_recommend_by_rules_puts_large_transformers_last_without_a_gpu():
    assert [a.model for a in recommend_by_rules(ModelRequest("accuracy", "medical", "cpu"), 300)][-1] == "vit-large"


def test_recommend_by_rules_raises_the_resolution_for_medical_images():
    assert {a.image_px for a in recommend_by_rules(ModelRequest(use_case="medical"), 300)} == {384}


def test_rules_name_known_models():
    lists = (
        *model_rules.BY_PRIORITY.values(),
        *model_rules.BY_USE_CASE.values(),
        *model_rules.BY_SIZE.values(),
    )
    assert {name for names in lists for name in names} <= set(CHECKPOINTS)
