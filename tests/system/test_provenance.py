"""The command, machine and versions that a result records."""

import pytest

from imgcls.system import provenance

ARGV = ["/somewhere/scripts/train.py", "--data", "my photos", "--hub_token", "hf_a", "--lr", "1e-4", "--hub_token=hf_b"]


@pytest.mark.parametrize(
    ("world", "local", "launcher"),
    [
        (1, 1, "python"),
        (2, 2, "torchrun --nproc_per_node 2"),
        (8, 4, "torchrun --nnodes 2 --nproc_per_node 4"),
    ],
)
def test_command_line_can_be_repeated_and_has_no_token(monkeypatch, world, local, launcher):
    monkeypatch.setenv("WORLD_SIZE", str(world))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(local))
    assert provenance.command_line(ARGV) == f"{launcher} scripts/train.py --data 'my photos' --lr 1e-4"


def test_command_line_drops_a_token_option_without_a_value():
    assert provenance.command_line(["train.py", "--hub_token"]) == "python scripts/train.py"


def test_collect_provenance_names_machine_and_versions():
    facts = provenance.collect_provenance()
    assert "thread" in facts["machine"]
    assert set(provenance.PACKAGES) < set(facts["versions"])
