"""Muon: what its steps are, and which weights take them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from genie.dynamics import Dynamics, DynamicsConfig
from train.loop.config import LoopConfig
from train.loop.muon import Muon, orthogonalise
from train.loop.schedule import make_optimizers


def matrices(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 3), st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
def test_every_direction_becomes_about_as_long(k, m, n, seed):
    made = orthogonalise(matrices(k, m, n, seed=seed))
    assert made.shape == (k, m, n)
    values = torch.linalg.svdvals(made.float())
    # A square matrix may have directions that are all but missing: those grow, but not in one go.
    assert values.max() < 1.3
    assert values[:, : max(1, min(m, n) // 2)].min() > 0.5


def test_directions_stay_what_they_are():
    left, _ = torch.linalg.qr(matrices(24, 24))
    right, _ = torch.linalg.qr(matrices(24, 24, seed=1))
    lengths = torch.logspace(0, -1, 24)
    made = orthogonalise((left * lengths @ right.mT)[None])[0].float()
    torch.testing.assert_close(made, left @ right.mT, atol=0.15, rtol=0)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_steps_are_those_of_the_reference(decay):
    ours = [nn.Parameter(matrices(24, 64, seed=n)) for n in range(2)]
    theirs = [nn.Parameter(weight.detach().clone()) for weight in ours]
    muon = Muon(ours, learning_rate=0.01, weight_decay=decay)
    reference = torch.optim.Muon(
        theirs, lr=0.01, weight_decay=decay, adjust_lr_fn="match_rms_adamw"
    )
    for step in range(4):
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            one.grad = matrices(24, 64, seed=10 * step + number)
            other.grad = one.grad.clone()
        muon.step()
        reference.step()
    for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        moved = other - matrices(24, 64, seed=number)
        assert (one - other).norm() < 0.02 * moved.norm()  # the reference rounds to bf16


def test_a_kernel_takes_the_step_of_the_matrix_that_it_is():
    kernel = nn.Parameter(matrices(16, 8, 3, 3))
    matrix = nn.Parameter(kernel.detach().flatten(1).clone())
    kernel.grad = matrices(16, 8, 3, 3, seed=1)
    matrix.grad = kernel.grad.flatten(1)
    for weight in (kernel, matrix):
        Muon([weight], learning_rate=0.1, weight_decay=0.0).step()
    assert torch.equal(kernel.flatten(1), matrix)


def test_what_has_no_gradient_stays():
    still, moved = (nn.Parameter(matrices(8, 8, seed=n)) for n in range(2))
    moved.grad = matrices(8, 8)
    Muon([still, moved], learning_rate=0.1, weight_decay=0.5).step()
    assert torch.equal(still, matrices(8, 8))
    assert not torch.equal(moved, matrices(8, 8, seed=1))


def loop(**values) -> LoopConfig:
    return LoopConfig(num_steps=1, batch_size=1, learning_rate=1e-3, **values)


def test_every_weight_has_one_optimiser():
    net = Dynamics(DynamicsConfig(num_tokens=4, codebook_size=20, dim=32, num_blocks=1))
    muon, adamw = make_optimizers(net, loop())
    held = [
        {id(weight) for group in one.param_groups for weight in group["params"]}
        for one in (muon, adamw)
    ]
    assert not held[0] & held[1]
    assert held[0] | held[1] == {id(weight) for weight in net.parameters()}
    assert id(net.transformer.blocks[0].spatial.qkv.weight) in held[0]
    assert {id(net.token.weight), id(net.out.weight), id(net.position)} <= held[1]


def test_adamw_alone_where_it_is_wanted():
    net = Dynamics(DynamicsConfig(num_tokens=4, codebook_size=20, dim=32, num_blocks=1))
    (adamw,) = make_optimizers(net, loop(optimizer="adamw"))
    held = [weight for group in adamw.param_groups for weight in group["params"]]
    assert len(held) == len(list(net.parameters()))
