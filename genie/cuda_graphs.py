"""CUDA graphs for pure functions: a GPU repeats all kernels of a call at a single request.

In: a function of tensors. Out: the same function. A frame of a small world is a few hundred
kernels, each of which takes the host longer to launch than the GPU to compute. Knows no nets.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

Function = Callable[..., Any]


class Graphed:
    """A pure function of tensors, recorded at its first call with each shape."""

    def __init__(
        self,
        function: Function,
        record: Callable[[Function, tuple[Any, ...]], Function] | None = None,
    ) -> None:
        """Nothing is recorded yet.

        Args:
            function: takes and gives tensors, or tuples of them, and asks for none of their
                numbers.
            record: gives the recorded function, whose inputs and outputs have fixed places in
                memory; default: CUDA graphs.
        """
        self._function = function
        self._record = record or torch.cuda.make_graphed_callables
        self._recorded: dict[tuple[Any, ...], Function] = {}

    def __call__(self, *given: Any) -> Any:
        """The function's results, which a later call does not overwrite."""
        tensors, _ = tree_flatten(given)
        shapes = tuple((tensor.shape, tensor.dtype) for tensor in tensors)
        if shapes not in self._recorded:
            own = tree_map(Tensor.clone, given)  # the caller's tensors must not become inputs
            self._recorded[shapes] = self._record(self._function, own)
        return tree_map(Tensor.clone, self._recorded[shapes](*given))
