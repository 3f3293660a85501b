"""The registry agrees with the checkpoints on the Hub, and names are found in it."""

import pytest
from tiny import HUB_IDS, PARAMETERS

from imgcls.errors import ModelError
from imgcls.models.registry import CHECKPOINTS, find_checkpoint


def test_checkpoints_agree_with_the_hub():
    assert {name: checkpoint.hub_id for name, checkpoint in CHECKPOINTS.items()} == HUB_IDS
    assert {name: checkpoint.parameters for name, checkpoint in CHECKPOINTS.items()} == PARAMETERS


def test_find_checkpoint_names_the_nearest_of_an_unknown_name():
    with pytest.raises(ModelError, match="Nearest: resnet-50"):
        find_checkpoint("resnet50")


def test_find_checkpoint_takes_short_names_and_hub_ids():
    assert find_checkpoint("resnet-50") is find_checkpoint("microsoft/resnet-50") is CHECKPOINTS["resnet-50"]
    assert find_checkpoint("someone/their-model") is None
