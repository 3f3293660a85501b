"""Features in bf16 are used on a CPU where they are faster and the same."""

import pytest
import torch

from imgcls.models import classifier_head
from imgcls.probing import backbone


class Timed(torch.nn.Module):
    """A network with given seconds per pass in float32 and bf16, and other features in bf16."""

    def __init__(self, seconds, error=0.0):
        super().__init__()
        self.seconds, self.error, self.now, self.passes = seconds, error, 0.0, 0
        self.classifier = torch.nn.Linear(3, 2)

    def clock(self):
        return self.now

    def forward(self, pixel_values):
        lower = torch.is_autocast_enabled("cpu")
        self.passes += 1
        self.now += self.seconds[lower] + 10 * (self.passes <= 2)  # slow first passes
        return self.classifier(torch.ones(len(pixel_values), 3) * (1 + self.error * lower))


@pytest.mark.parametrize(
    ("seconds", "error", "speedup"),
    [
        ((0.2, 0.1), 0.01, 2.0),
        ((0.2, 0.19), 0.01, 0.0),
        ((0.1, 0.2), 0.01, 0.0),
        ((0.2, 0.1), 0.2, 0.0),
        ((30.0, 10.0), 0.0, 3.0),
    ],
)
def test_bf16_speedup_is_above_0_where_bf16_is_faster_and_the_same(monkeypatch, seconds, error, speedup):
    network = Timed(seconds, error)
    monkeypatch.setattr(backbone.time, "perf_counter", network.clock)
    monkeypatch.setattr(classifier_head, "head_of", lambda network: network.classifier)
    threads = torch.get_num_threads()
    assert backbone.bf16_speedup(network, torch.zeros(8, 3, 4, 4)) == pytest.approx(speedup)
    assert network.passes <= 6
    assert torch.get_num_threads() == threads
    assert not network.classifier._forward_pre_hooks
