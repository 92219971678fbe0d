"""Muon: steps along the momentum with all its directions made equally long.

In: matrices and their gradients. Out: the matrices after a step. Knows no nets.

A gradient of a matrix has a few strong directions, and a step along it, or along AdamW's scaled
one, learns little of the others. The nearest orthogonal matrix has all of them at one length; a few
products find it well enough, for all matrices of one shape at once.

Source: Jordan et al. 2024 (kellerjordan.github.io/posts/muon); the length of steps, such that
AdamW's rate suits, after Liu et al. 2025 (arXiv:2502.16982).
Differs: torch.optim.Muon takes no kernels of convolutions, one matrix at a time, and rounds to bf16
also where that takes thirty times as long.
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
# Of x -> a x + b x^3 + c x^5: so that few rounds bring every singular value near 1.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ROUNDS = 5
LENGTH = 0.2  # root mean square of a step at rate 1: AdamW's usual one


class Muon(torch.optim.Optimizer):
    """For weights of two axes or more; the axes after the first count as one."""

    def __init__(
        self, weights: Iterable[nn.Parameter], *, learning_rate: float, weight_decay: float
    ) -> None:
        """Args: learning_rate: what suits AdamW suits here, too."""
        super().__init__(weights, {"lr": learning_rate, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Take a step; weights without a gradient stay."""
        for group in self.param_groups:
            alike = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    alike[weight.shape].append(weight)
            for weights in alike.values():
                self._step_together(weights, group["lr"], group["weight_decay"])

    def _step_together(self, weights: list[nn.Parameter], rate: float, decay: float) -> None:
        """Weights of one shape."""
        gradients = [weight.grad for weight in weights]
        momenta = [self._momentum(weight) for weight in weights]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        ahead = torch._foreach_lerp(gradients, momenta, MOMENTUM)
        matrices = torch.stack([_whole(one).flatten(1) for one in ahead])
        steps = orthogonalise(matrices).to(weights[0].dtype)
        length = LENGTH * math.sqrt(max(matrices.shape[1:]))
        torch._foreach_mul_(weights, 1 - rate * decay)
        laid_out = [_like(weight, step) for weight, step in zip(weights, steps, strict=True)]
        torch._foreach_add_(weights, laid_out, alpha=-rate * length)

    def _momentum(self, weight: nn.Parameter) -> Tensor:
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        return state["momentum"]


def orthogonalise(matrices: Float[Tensor, "k m n"]) -> Float[Tensor, "k m n"]:
    """Every singular value to about 1 (0.7 to 1.2), by Newton and Schulz' iteration."""
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
    """All of a tensor, of which the processes may hold a share each."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _like(weight: Tensor, step: Float[Tensor, "m n"]) -> Tensor:
    """The step in the shape of a weight, and divided among the processes as that is."""
    step = step.reshape(weight.shape)
    if isinstance(weight, DTensor):
        return distribute_tensor(step, weight.device_mesh, weight.placements)
    return step
