"""Random numbers that are a function of seed and time, with no generator to carry along.

In: a seed and a step per world. Out: numbers in 0..1. A world's numbers do not depend on how many
others run beside it, nor on the device, and going back in time needs no generator state.

Source: the finalizer of SplitMix64 (Steele et al. 2014, "Fast splittable pseudorandom number
generators"), used as a counter-based generator (Salmon et al. 2011).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # as signed 64-bit numbers, which wrap around
MULTIPLIERS = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))


def uniform(
    seeds: Int[Tensor, " b"], steps: Int[Tensor, " b"], count: int
) -> Float[Tensor, "b {count}"]:
    """Numbers in 0 < x < 1, `count` for each world, all different from step to step."""
    key = _scramble(_scramble(seeds * GOLDEN) + steps * GOLDEN)
    index = torch.arange(1, count + 1, device=seeds.device)
    bits = _scramble(key[:, None] + index * GOLDEN)
    return (_shift(bits, 41).float() + 0.5) * 2.0**-23  # exactly what a float holds, never 0 or 1


def _scramble(x: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    for places, multiplier in MULTIPLIERS:
        x = (x ^ _shift(x, places)) * multiplier
    return x ^ _shift(x, 31)


def _shift(x: Int[Tensor, "..."], places: int) -> Int[Tensor, "..."]:
    """To the right, zeros from the left."""
    return (x >> places) & (2 ** (64 - places) - 1)
