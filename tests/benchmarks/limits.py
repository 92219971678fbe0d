"""How close a pass over one frame comes to the machine's limits, which are measured in turns."""

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from genie.machine import has_compiler, quick_dtype
from genie.torch_engine import TorchEngine
from genie.world import World
from tests.benchmarks.timing import take_turns
from train.loop.speed import MATRIX_SIDE

COPIED_BYTES = 2**28


def one_pass(world: World, rounds: int) -> list[dict]:
    """Rates of operations and of bytes, relative to those of matrix products and of copying."""
    ways = [False, True] if has_compiler(world.device) else [False]
    passes = {compiled: OnePass(world, compiled) for compiled in ways}
    with FlopCounterMode(display=False) as counter:
        passes[False]()
    operations = counter.get_total_flops()
    num_bytes = passes[False].num_bytes
    functions = {"matrices": Matrices(world), "copies": Copies(world)}
    functions |= {f"compiled {compiled}": each for compiled, each in passes.items()}
    seconds = take_turns(functions, rounds)
    # Of each turn, so that a pass is compared with the rates of its own turn.
    rate = functions["matrices"].operations / seconds["matrices"]
    bandwidth = 2 * COPIED_BYTES / seconds["copies"]
    rows = []
    for compiled in ways:
        times = seconds[f"compiled {compiled}"]
        rows.append(
            {
                "world": world.name,
                "compiled": compiled,
                "ms": float(1000 * np.median(times)),
                "GFLOP": operations / 1e9,
                "matrix rate, GFLOP/s": float(np.median(rate)) / 1e9,
                "of the matrix rate": float(np.median(operations / times / rate)),
                "MB": num_bytes / 1e6,
                "bandwidth, GB/s": float(np.median(bandwidth)) / 1e9,
                "of the bandwidth": float(np.median(num_bytes / times / bandwidth)),
            }
        )
    return rows


class OnePass:
    """One pass of the dynamics over a frame, with a full window of past frames."""

    def __init__(self, world: World, compiled: bool) -> None:
        self.dynamics = TorchEngine(world, world.config.sampling, compile=compiled).dynamics
        config = world.config.dynamics
        size = (1, config.num_tokens)
        self.tokens = torch.randint(config.codebook_size, size, device=world.device)
        self.action = torch.zeros(1, dtype=torch.long, device=world.device)
        ring = self.dynamics.transformer.new_ring(1, config.num_tokens)
        with torch.inference_mode():
            for _ in range(config.window):
                ring.append(self.dynamics.remember(self.tokens, self.action, ring.past()))
        self.past = ring.past()
        weights = sum(w.nbytes for w in self.dynamics.transformer.parameters())
        weights += self.dynamics.out.weight.nbytes
        self.num_bytes = weights + self.past.keys.nbytes + self.past.values.nbytes

    @torch.inference_mode()
    def __call__(self) -> None:
        self.dynamics.next_logits(self.tokens, self.action, self.past)


class Matrices:
    """Large matrix products in the number format of the world's passes."""

    def __init__(self, world: World) -> None:
        side = MATRIX_SIDE[world.device.type]
        dtype = quick_dtype(world.device)
        self.a, self.b = torch.randn(2, side, side, device=world.device).to(dtype)
        self.operations = 2 * side**3

    def __call__(self) -> None:
        self.a @ self.b


class Copies:
    """Copies a block that is larger than any cache."""

    def __init__(self, world: World) -> None:
        self.source = torch.zeros(COPIED_BYTES, dtype=torch.uint8, device=world.device)
        self.copy = torch.zeros_like(self.source)

    def __call__(self) -> None:
        self.copy.copy_(self.source)
