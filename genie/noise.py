"""Random numbers that are a function of seed and time, with no generator to carry along.

In: a seed and a step per world. Out: numbers in 0..1. A world's numbers do not depend on how many
others run beside it, nor on the device, and going back in time needs no generator state.

Source: the finalizer of SplitMix64 (Steele et al. 2014, "Fast splittable pseudorandom number
generators"), used as a counter-based generator (Salmon et al. 2011).
"""

import numpy as np
from jaxtyping import Float32, Int64

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MULTIPLIERS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def uniform(
    seeds: Int64[np.ndarray, " b"], steps: Int64[np.ndarray, " b"], count: int
) -> Float32[np.ndarray, "b {count}"]:
    """Numbers in 0 < x < 1, `count` for each world, all different from step to step."""
    seeds, steps = (numbers.view(np.uint64) for numbers in (seeds, steps))  # these wrap around
    key = _scramble(_scramble(seeds * GOLDEN) + steps * GOLDEN)
    index = np.arange(1, count + 1, dtype=np.uint64)
    bits = _scramble(key[:, None] + index * GOLDEN) >> np.uint64(41)
    # Exactly what a float holds, never 0 or 1.
    return (bits.astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-23)


def _scramble(x: np.ndarray) -> np.ndarray:
    for places, multiplier in MULTIPLIERS:
        x = (x ^ (x >> np.uint64(places))) * np.uint64(multiplier)
    return x ^ (x >> np.uint64(31))
