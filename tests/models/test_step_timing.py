"""A rehearsed step leaves no trace, and its pace tells how long a run takes."""

import pytest
import torch
from torch import nn

from imgcls.models.step_timing import QUICK_S, StepTime, time_full_batch, time_step

CPU = torch.device("cpu")


class Images:
    """Keys are those of training (epoch, index, counted) or plain indices."""

    def __len__(self):
        return 6

    def __getitem__(self, key):
        return torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(hash(key) % 1000))


@pytest.fixture
def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 2))


def traces(network):
    gradients = [p.grad is not None and bool(p.grad.any()) for p in network.parameters()]
    return {k: v.clone() for k, v in network.state_dict().items()}, torch.get_rng_state(), any(gradients)


@pytest.mark.parametrize("fails", [False, True])
def test_no_trace_is_left(network, fails):
    def step(samples):
        loss = network(torch.stack(samples)).square().mean()
        if fails:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return loss

    state, random, _ = traces(network)
    if fails:
        with pytest.raises(torch.OutOfMemoryError):
            time_step(network, step, Images(), Images(), 4, CPU)
        with pytest.raises(torch.OutOfMemoryError):
            time_full_batch(StepTime(4, 0.01, 0.01), network, step, Images(), 8, CPU)
    else:
        pace = time_full_batch(time_step(network, step, Images(), Images(), 8, CPU), network, step, Images(), 8, CPU)
        assert pace.images == 8
        assert pace.train_s > 0
        assert pace.evaluation_s > 0
    after, random_after, has_gradients = traces(network)
    assert all(torch.equal(value, after[name]) for name, value in state.items())
    assert torch.equal(random, random_after)
    assert not has_gradients


def test_a_whole_batch_is_rehearsed_where_a_few_images_were_quick(network):
    sizes = []

    def step(samples):
        sizes.append(len(samples))
        return network(torch.stack(samples)).square().mean()

    few = time_step(network, step, Images(), Images(), 8, CPU)
    assert few.images == 4
    slow = StepTime(4, QUICK_S / 4, 0.1)
    assert time_full_batch(slow, network, step, Images(), 8, CPU) is slow
    assert max(sizes) == 4
    whole = time_full_batch(few, network, step, Images(), 8, CPU)
    assert (sizes[-1], whole.images) == (8, 8)
    assert (whole.read_s, whole.read_evaluated_s) == (few.read_s, few.read_evaluated_s)
    assert time_full_batch(whole, network, step, Images(), 8, CPU) is whole
    assert time_step(network, step, Images(), Images(), 8, CPU, whole=True).images == 8


def test_seconds_are_summed_over_images():
    assert StepTime(4, 0.2, 0.05).seconds(100, 40) == pytest.approx(22)
