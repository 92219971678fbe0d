"""Random numbers that are a function of seed and step, without the state of a generator.

In: a seed and a step per world. Out: numbers in 0..1. A world's numbers depend neither on how many
others run beside it nor on the device, and going back in time needs nothing but the step.

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
    """Uniform numbers in 0 < x < 1, `count` for each world, different for every seed and step."""
    seeds, steps = (numbers.view(np.uint64) for numbers in (seeds, steps))  # products wrap around
    key = _scramble(_scramble(seeds * GOLDEN) + steps * GOLDEN)
    index = np.arange(1, count + 1, dtype=np.uint64)
    bits = _scramble(key[:, None] + index * GOLDEN) >> np.uint64(41)
    # 23 bits and a half: exact in float32, never 0 or 1.
    return (bits.astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-23)


def _scramble(x: np.ndarray) -> np.ndarray:
    for places, multiplier in MULTIPLIERS:
        x = (x ^ (x >> np.uint64(places))) * np.uint64(multiplier)
    return x ^ (x >> np.uint64(31))
