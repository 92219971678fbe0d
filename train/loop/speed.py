"""How fast a training step is, and how near to what the machine could do.

In: a net, a clip, seconds. Out: frames, tokens and the share of the machine's matrix rate (MFU,
Chowdhery et al. 2022, arXiv:2204.02311, appendix B). Operations are counted from shapes, and the
machine's rate is measured: no table of devices.
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
    """Figures of one step from its seconds."""

    def __init__(
        self,
        net: nn.Module,
        accelerator: Accelerator,
        clips: Clips,
        batch_size: int,
        to_arguments: Callable[[Any], tuple[torch.Tensor, ...]],
    ) -> None:
        """Count what a step does, and measure what the devices could do.

        Args:
            batch_size: clips a step, over all processes.
            to_arguments: what the net's `forward` is given, from a batch.
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
    """Seconds of a step, the mean of all since `start`: a device may lag behind single ones."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Forget what was."""
        self.began, self.waited_s, self.num_steps = time.perf_counter(), 0.0, 0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """The time in here is spent on waiting for clips."""
        began = time.perf_counter()
        yield
        self.waited_s += time.perf_counter() - began

    def figures(self) -> dict[str, float]:
        """`step_s` and, as a part of it, `wait_s`; after one step or more."""
        passed = time.perf_counter() - self.began
        return {"step_s": passed / self.num_steps, "wait_s": self.waited_s / self.num_steps}


@torch.no_grad()
def count_operations(net: nn.Module, arguments: tuple[torch.Tensor, ...]) -> int:
    """Multiplications and additions in all matrix products and convolutions of one training step.

    Those of the forward pass three times, as is the custom: backward, each product is done again
    for the gradient of either factor. Counted on a copy that has shapes and no numbers, so that
    nothing is computed.
    """
    trained = copy.deepcopy(net).to("meta").train()
    with torch.random.fork_rng(devices=[]), FlopCounterMode(display=False) as counter:
        trained(*(argument.to("meta") for argument in arguments))
    return 3 * counter.get_total_flops()


@cache
def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of large square matrix products here and now, the best of a few."""
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
