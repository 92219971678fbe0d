"""What of a net torch.compile is given: parts that many calls share, so that each is made once.

In: a net whose modules name their `compiled_methods`. Out: the same net, quicker after a first call
of each shape. Knows no particular net.
"""

from contextlib import AbstractContextManager

import torch
from torch import nn


def compile_parts(net: nn.Module) -> None:
    """Side effect: the parts of `net` that say so are compiled at their first call.

    Part by part, not as one graph: all blocks of a stack share the code, so that it is made once.
    """
    for module in net.modules():
        for name in getattr(module, "compiled_methods", ()):
            setattr(module, name, torch.compile(getattr(module, name), dynamic=False))


def uncompiled() -> AbstractContextManager[None]:
    """Within it, nets run as if they had never been compiled, and no other shape is compiled."""
    return torch.compiler.set_stance("force_eager")


def failed_to_compile(error: Exception) -> bool:
    """Whether it was the compiler that failed, and not what was being compiled."""
    from torch._dynamo.exc import TorchDynamoException  # slow to load, and seldom wanted

    return isinstance(error, TorchDynamoException)


def give_up_compiling() -> None:
    """Side effect: from here on, nets run as if they had never been compiled."""
    torch.compiler.set_stance("force_eager")
