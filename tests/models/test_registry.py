"""Numbers that the table of models must agree with."""

import pytest
from tiny import HUB_IDS, PARAMETERS

from imgcls.errors import ModelError
from imgcls.models.registry import CHECKPOINTS, find_checkpoint


def test_the_table_agrees_with_the_checkpoints():
    assert {name: c.hub_id for name, c in CHECKPOINTS.items()} == HUB_IDS
    assert {name: c.parameters for name, c in CHECKPOINTS.items()} == PARAMETERS


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(ModelError, match="Nearest: resnet-50"):
        find_checkpoint("resnet50")
