"""A dry run that runs out of memory on one rank fails on all of them."""

import pytest
import torch
from accelerate.utils.memory import should_reduce_batch_size

from imgcls.models.step_timing import StepTime
from imgcls.training import dry_run
from imgcls.training.dry_run import DryRun, DryRunOutOfMemoryError


class TwoRanks:
    """An accelerator of two ranks, the other of which ran out of memory or not."""

    device = torch.device("cpu")

    def __init__(self, other_failed):
        self.other_failed, self.gathered = other_failed, []

    def gather(self, failed):
        self.gathered.append(failed.item())
        return torch.tensor([failed.item(), self.other_failed])


def make_dry_run(monkeypatch, error=None, other_failed=False):
    def time_step(*args, **kwargs):
        if error is not None:
            raise error
        return StepTime(4, 1.0, 0.5)

    monkeypatch.setattr(dry_run, "time_step", time_step)
    accelerator = TwoRanks(other_failed)
    return DryRun(torch.nn.Linear(1, 1), lambda samples: torch.zeros(1), [], [], 8, accelerator), accelerator


def test_time_step_returns_what_was_measured(monkeypatch):
    run, accelerator = make_dry_run(monkeypatch)
    assert run.time_step() == StepTime(4, 1.0, 0.5)
    assert accelerator.gathered == [False]


@pytest.mark.parametrize(
    ("error", "other_failed"), [(torch.OutOfMemoryError("CUDA out of memory."), False), (None, True)]
)
def test_time_step_raises_on_all_ranks(monkeypatch, error, other_failed):
    run, accelerator = make_dry_run(monkeypatch, error, other_failed)
    with pytest.raises(DryRunOutOfMemoryError) as raised:
        run.time_step()
    assert should_reduce_batch_size(raised.value)  # so that `fit` halves the batch
    assert accelerator.gathered == [error is not None]  # otherwise the other rank would wait forever


def test_time_step_raises_other_errors_as_they_are(monkeypatch):
    run, _ = make_dry_run(monkeypatch, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        run.time_step()
