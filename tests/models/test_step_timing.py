"""A timed step leaves no trace, and its duration tells how long a run takes."""

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


@pytest.fixture
def leaves_no_trace(network):
    """Checks after a test that the network and the random state are as before."""
    state = {name: value.clone() for name, value in network.state_dict().items()}
    random_state = torch.get_rng_state()
    yield
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not any(p.grad is not None and p.grad.any() for p in network.parameters())


@pytest.mark.usefixtures("leaves_no_trace")
def test_time_step_and_time_full_batch_leave_no_trace(network):
    def batch_loss(samples):
        return network(torch.stack(samples)).square().mean()

    step_time = time_step(network, batch_loss, Images(), Images(), 8, CPU)
    step_time = time_full_batch(step_time, network, batch_loss, Images(), 8, CPU)
    assert step_time.images == 8
    assert step_time.train_s > 0
    assert step_time.evaluation_s > 0


@pytest.mark.usefixtures("leaves_no_trace")
def test_time_step_and_time_full_batch_leave_no_trace_when_memory_is_exhausted(network):
    def batch_loss(samples):
        network(torch.stack(samples)).square().mean().backward()
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(torch.OutOfMemoryError):
        time_step(network, batch_loss, Images(), Images(), 4, CPU)
    with pytest.raises(torch.OutOfMemoryError):
        time_full_batch(StepTime(4, 0.01, 0.01), network, batch_loss, Images(), 8, CPU)


def test_time_full_batch_times_a_whole_batch_where_a_few_images_were_quick(network):
    sizes = []

    def batch_loss(samples):
        sizes.append(len(samples))
        return network(torch.stack(samples)).square().mean()

    few = time_step(network, batch_loss, Images(), Images(), 8, CPU)
    assert few.images == 4
    slow = StepTime(4, QUICK_S / 4, 0.1)
    assert time_full_batch(slow, network, batch_loss, Images(), 8, CPU) is slow
    assert max(sizes) == 4
    whole = time_full_batch(few, network, batch_loss, Images(), 8, CPU)
    assert (sizes[-1], whole.images) == (8, 8)
    assert (whole.train_read_s, whole.evaluation_read_s) == (few.train_read_s, few.evaluation_read_s)
    assert time_full_batch(whole, network, batch_loss, Images(), 8, CPU) is whole
    assert time_step(network, batch_loss, Images(), Images(), 8, CPU, whole_batch=True).images == 8


def test_step_time_seconds_and_reading_seconds_are_sums_over_images():
    step_time = StepTime(4, 0.2, 0.05, 0.5, 0.25)
    assert step_time.seconds(100, 40) == pytest.approx(22)
    assert step_time.reading_seconds(10, 4) == pytest.approx(6)
