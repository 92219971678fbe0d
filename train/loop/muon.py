"""Muon: an optimiser that takes a step of equal length in every direction of the momentum.

In: matrices and their gradients. Out: the matrices after a step. Knows nothing of nets.

A matrix's gradient has a few strong directions, and a step along it, even as AdamW scales it,
learns little in the others. The nearest orthogonal matrix has the same length in all directions; a
few matrix products approximate it well enough, for all matrices of one shape at once.

Source: Jordan et al. 2024 (kellerjordan.github.io/posts/muon); the length of a step is chosen such
that AdamW's learning rate suits (Liu et al. 2025, arXiv:2502.16982).
Differs: torch.optim.Muon takes no kernels of convolutions, computes one matrix at a time, and
always rounds to bf16, even where that takes thirty times as long.
"""

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from genie.machine import quick_dtype

MOMENTUM = 0.95
# Of x -> a x + b x^3 + c x^5, such that a few rounds bring every singular value near 1.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ROUNDS = 5
LENGTH = 0.2  # root mean square of a step at learning rate 1, which is usual for AdamW


class Muon(torch.optim.Optimizer):
    """Muon for weights of two axes or more; all axes after the first count as one."""

    def __init__(
        self, weights: Iterable[nn.Parameter], *, learning_rate: float, weight_decay: float
    ) -> None:
        """Args: learning_rate: a value that suits AdamW suits here, too."""
        super().__init__(weights, {"lr": learning_rate, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):  # unannotated, as torch's own optimisers are
        """Take a step; weights without a gradient stay as they are, and `closure` is not called."""
        for group in self.param_groups:
            alike: defaultdict[torch.Size, list[Tensor]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    alike[weight.shape].append(weight)
            for weights in alike.values():
                self._step_together(weights, group["lr"], group["weight_decay"])

    def _step_together(self, weights: list[Tensor], rate: float, decay: float) -> None:
        """Take a step for weights of one shape, all of which have a gradient."""
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        momenta = [self._momentum(weight) for weight in weights]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        ahead = torch._foreach_lerp(gradients, momenta, MOMENTUM)
        matrices = torch.stack([_whole(one).flatten(1) for one in ahead])
        steps = orthogonalise(matrices).to(weights[0].dtype)
        length = LENGTH * math.sqrt(max(matrices.shape[1:]))
        torch._foreach_mul_(weights, 1 - rate * decay)
        laid_out = [_like(weight, step) for weight, step in zip(weights, steps, strict=True)]
        torch._foreach_add_(weights, laid_out, alpha=-rate * length)

    def _momentum(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        return state["momentum"]


def orthogonalise(matrices: Float[Tensor, "k m n"]) -> Float[Tensor, "k m n"]:
    """Bring every singular value to about 1 (0.7 to 1.2) by the Newton-Schulz iteration."""
    a, b, c = COEFFICIENTS
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if is_tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    x = x.to(quick_dtype(matrices.device))
    for _ in range(ROUNDS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


def _whole(tensor: Tensor) -> Tensor:
    """The whole tensor, even if it is sharded over the processes."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _like(weight: Tensor, step: Float[Tensor, "m n"]) -> Tensor:
    """The step in the shape of a weight, and sharded as the weight is."""
    step = step.reshape(weight.shape)
    if isinstance(weight, DTensor):
        return distribute_tensor(step, weight.device_mesh, weight.placements)
    return step
