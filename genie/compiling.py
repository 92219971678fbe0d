"""torch.compile for nets, method by method, so that blocks with the same code compile only once.

In: a net whose modules list their `compiled_methods`. Out: the same net, faster after the first
call with each shape. Knows no particular net.
"""

from contextlib import AbstractContextManager

import torch
from torch import nn


def compile_parts(net: nn.Module) -> None:
    """Side effect: the methods in each module's `compiled_methods` compile at their first call.

    Not the net as one graph: all blocks of a stack share their code, which then compiles only once.
    """
    for module in net.modules():
        for name in getattr(module, "compiled_methods", ()):
            setattr(module, name, torch.compile(getattr(module, name), dynamic=False))


def uncompiled() -> AbstractContextManager[None]:
    """A context in which nets run uncompiled and nothing is compiled."""
    return torch.compiler.set_stance("force_eager")


def failed_to_compile(error: Exception) -> bool:
    """Whether the error comes from the compiler, not from the code that was compiled."""
    from torch._dynamo.exc import TorchDynamoException  # slow to import, rarely needed

    return isinstance(error, TorchDynamoException)


def give_up_compiling() -> None:
    """Side effect: from here on, nets run uncompiled and nothing is compiled."""
    torch.compiler.set_stance("force_eager")
