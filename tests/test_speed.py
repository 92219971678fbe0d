"""Figures of speed: operations as counted by hand, and nothing disturbed by the counting."""

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from genie.data.clips import Clips, TokenStore
from genie.dynamics import Dynamics, DynamicsConfig
from train.loop.speed import Speedometer, count_operations, matrix_rate


class TwoProducts(nn.Module):
    """A net whose operations can be counted on the fingers, with a running average."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(7, 11), nn.Linear(11, 3)
        self.average = nn.BatchNorm1d(3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, dict]:
        return self.average(self.second(self.first(x))).square().mean() * torch.rand(()), {}


def test_operations_are_those_counted_by_hand():
    """Backward, each product is done twice again."""
    forward = 2 * 5 * (7 * 11 + 11 * 3)
    assert count_operations(TwoProducts(), (torch.randn(5, 7),)) == 3 * forward


def test_counting_leaves_the_net_and_the_generator_as_they_were():
    net = TwoProducts()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state = torch.random.get_rng_state()
    count_operations(net, (torch.randn(5, 7, generator=torch.Generator()),))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("batch_size", [2, 1000])
def test_figures_follow_from_the_seconds(batch_size: int):
    net = Dynamics(
        DynamicsConfig(num_tokens=6, codebook_size=9, dim=24, num_blocks=1, num_heads=3, window=3)
    )
    store = TokenStore(torch.zeros(8, 6).int(), torch.zeros(8).int(), torch.tensor([0, 8]).numpy())
    clips = Clips(store, 4)
    meter = Speedometer(net, Accelerator(cpu=True), clips, batch_size, tuple)
    frames = 4 * min(batch_size, len(clips))
    figures = meter.figures(0.5)
    assert figures["frames_per_s"] == 2 * frames and figures["tokens_per_s"] == 12 * frames
    share = meter.operations / 0.5 / matrix_rate(torch.device("cpu"), torch.float32)
    assert figures["mfu"] == pytest.approx(share) and 0 < share < 1
