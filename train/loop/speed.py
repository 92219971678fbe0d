"""How fast a training step is, and how close to the limit of the machine.

In: a net, a clip, seconds. Out: frames and tokens per second, and the share of the machine's matrix
rate (MFU, Chowdhery et al. 2022, arXiv:2204.02311, appendix B). Operations are counted from shapes
and the machine's rate is measured, so that no table of devices is needed.
"""

import contextlib
import copy
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import default_collate
from torch.utils.flop_counter import FlopCounterMode

from genie.data.clips import Clips

MATRIX_SIDE = {"cpu": 1024, "mps": 2048, "cuda": 8192}


class Speedometer:
    """Turns the seconds of a step into its figures."""

    def __init__(
        self,
        net: nn.Module,
        accelerator: Accelerator,
        clips: Clips,
        batch_size: int,
        to_arguments: Callable[[Any], tuple[torch.Tensor, ...]],
    ) -> None:
        """Count the operations of a step, and measure the matrix rate of the devices.

        Args:
            batch_size: clips per step, over all processes.
            to_arguments: turns a batch into the arguments of the net's `forward`.
        """
        self.num_clips = min(batch_size, len(clips))
        self.frames = self.num_clips * clips.num_frames
        self.tokens_per_frame = getattr(net.config, "num_tokens", 0)
        arguments = to_arguments(default_collate([clips[0]]))
        self.operations = self.num_clips * count_operations(net, arguments)
        is_bf16 = accelerator.mixed_precision == "bf16"
        dtype = torch.bfloat16 if is_bf16 else torch.float32
        self.peak = matrix_rate(accelerator.device, dtype) * accelerator.num_processes

    def figures(self, step_s: float) -> dict[str, float]:
        """`frames_per_s`, `tokens_per_s` where there are tokens, and `mfu`, 0..1."""
        figures = {"frames_per_s": self.frames / step_s}
        if self.tokens_per_frame:
            figures["tokens_per_s"] = self.frames * self.tokens_per_frame / step_s
        return figures | {"mfu": self.operations / step_s / self.peak}


class Stopwatch:
    """Mean seconds of the steps since `start`; single ones may end before the device has."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start again from zero."""
        self.began, self.waited_s, self.num_steps = time.perf_counter(), 0.0, 0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside the `with` block as waiting for clips."""
        began = time.perf_counter()
        yield
        self.waited_s += time.perf_counter() - began

    def figures(self) -> dict[str, float]:
        """`step_s` and, as a part of it, `wait_s`; needs at least one step."""
        passed = time.perf_counter() - self.began
        return {"step_s": passed / self.num_steps, "wait_s": self.waited_s / self.num_steps}


@torch.no_grad()
def count_operations(net: nn.Module, arguments: tuple[torch.Tensor, ...]) -> int:
    """Multiplications and additions in all matrix products and convolutions of one training step.

    As usual, those of the forward pass count three times: the backward pass has a product of the
    same size for the gradient of each factor. They are counted on a copy of the net that has shapes
    but no numbers, so that nothing is computed.
    """
    trained = copy.deepcopy(net).to("meta").train()
    with torch.random.fork_rng(devices=[]), FlopCounterMode(display=False) as counter:
        trained(*(argument.to("meta") for argument in arguments))
    return 3 * counter.get_total_flops()


@cache
def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of large square matrix products, measured; the best of a few."""
    side = MATRIX_SIDE[device.type]
    generator = torch.Generator(device).manual_seed(0)
    a, b = torch.randn(2, side, side, generator=generator, device=device).to(dtype)
    seconds = []
    for _ in range(12):
        started = time.perf_counter()
        a @ b
        if device.type != "cpu":
            getattr(torch, device.type).synchronize()
        seconds.append(time.perf_counter() - started)
    return 2 * side**3 / min(seconds)
