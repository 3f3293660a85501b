"""Which of probe, average and fine-tuned model is kept."""

import numpy as np
import pytest
import torch

from imgcls.config.parser import ParsedOptions
from imgcls.config.training_config import TrainingConfig, TrainingRequest
from imgcls.experiment import weight_selection


def right(share, n=100):
    return np.arange(n) < round(share * n)


@pytest.mark.parametrize(
    ("probe", "average", "tuned", "kept"),
    [
        (0.80, 0.80, 0.80, "average"),
        (0.80, 0.82, 0.81, "average"),
        (0.84, 0.82, 0.80, "probe"),  # two images more and none less
        (0.83, 0.82, 0.83, "average"),  # one image decides nothing
        (0.50, 0.70, 0.90, "fine-tuned"),
        (0.95, 0.70, 0.90, "probe"),
    ],
)
def test_choose_weights_takes_the_average_unless_another_is_clearly_better(probe, average, tuned, kept):
    correct = {"probe": right(probe), "average": right(average), "fine-tuned": right(tuned)}
    assert weight_selection.choose_weights(correct) == kept


def test_choose_weights_ignores_a_difference_of_one_image():
    one = {"probe": np.array([True]), "average": np.array([False]), "fine-tuned": np.array([True])}
    assert weight_selection.choose_weights(one) == "average"


def test_choose_weights_defaults_to_fine_tuned_after_a_fresh_head():
    correct = {"probe": right(0.83), "fine-tuned": right(0.82)}
    assert weight_selection.choose_weights(correct, "fine-tuned") == "fine-tuned"
    assert weight_selection.choose_weights(correct | {"probe": right(0.9)}, "fine-tuned") == "probe"


def test_interpolate_weights_halfway():
    start = {"w": torch.zeros(2), "steps": torch.tensor(0)}
    end = {"w": torch.tensor([2.0, 4.0]), "steps": torch.tensor(7)}
    found = weight_selection.interpolate_weights(start, end, 0.5)
    assert torch.equal(found["w"], torch.tensor([1.0, 2.0]))
    assert found["steps"] == 7
    assert torch.equal(weight_selection.interpolate_weights(start, end, 0.0)["w"], start["w"])
    assert torch.equal(weight_selection.interpolate_weights(start, end, 1.0)["w"], end["w"])


@pytest.mark.parametrize(
    ("mode", "class_weights", "expected"),
    [
        ("probe_then_full", "none", "average"),
        ("probe_then_full", "balanced", "probe"),
        ("head", "none", "average"),
        ("probe_and_full", "balanced", "fine-tuned"),
    ],
)
def test_default_weights_by_mode_and_class_weights(mode, class_weights, expected):
    request = TrainingRequest.from_parsed(ParsedOptions({"class_weights": class_weights}), {"use_cpu": True})
    config = TrainingConfig.from_request(request, mode, is_demo=False)
    assert weight_selection.default_weights(config) == expected
