"""The running average of a net's weights, which is evaluated and becomes the result.

In: a net after each step. Out: the same net, with the averaged weights inside a `with` block. Also
works on nets that are sharded over processes.

Source: exponential moving average of weights (Polyak & Juditsky 1992). Its decay grows during the
first steps, so that they are soon forgotten.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


class WeightAverage:
    """Averages all weights and floating-point buffers; with decay 0 it leaves the net as it is."""

    def __init__(self, net: nn.Module, decay: float) -> None:
        """Args: decay: of the average in one step, 0..1."""
        self.net, self.decay = net, decay
        self._averages = {n: t.detach().clone() for n, t in self._live()} if decay else {}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the weights after a step (1-based) to the average."""
        if self._averages:
            weight = 1 - min(self.decay, step / (10 + step))
            for sharded in (True, False):  # one operation cannot take both kinds of tensors
                live = [(n, t) for n, t in self._live() if isinstance(t, DTensor) == sharded]
                averages = [self._averages[name] for name, _ in live]
                if live:
                    torch._foreach_lerp_(averages, [tensor for _, tensor in live], weight)

    @contextlib.contextmanager
    @torch.no_grad()
    def in_place(self) -> Iterator[None]:
        """Inside the `with` block, the net has the averaged weights."""
        live = {name: tensor.clone() for name, tensor in self._live() if name in self._averages}
        try:
            self._fill(self._averages)
            yield
        finally:
            self._fill(live)

    def state(self) -> dict[str, Tensor]:
        """Return the averages, unsharded and on the CPU. Every process has to call it."""
        return {name: _whole(average).cpu() for name, average in self._averages.items()}

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        """Set the averages to what `state` returned."""
        for name, average in self._averages.items():
            average.copy_(_split_like(state[name], average))

    def _live(self) -> list[tuple[str, Tensor]]:
        named = [*self.net.named_parameters(), *self.net.named_buffers()]
        return [(name, tensor) for name, tensor in named if tensor.is_floating_point()]

    def _fill(self, tensors: dict[str, Tensor]) -> None:
        for name, tensor in self._live():
            if name in tensors:
                tensor.copy_(tensors[name])


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _split_like(tensor: Tensor, like: Tensor) -> Tensor:
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)
