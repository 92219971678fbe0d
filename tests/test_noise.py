"""Random numbers by seed and time: as random as the library's, and nobody's neighbour's."""

import numpy as np

from genie.noise import uniform


def numbers(seed: int, step: int, count: int) -> np.ndarray:
    return uniform(np.array([seed]), np.array([step]), count)[0]


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    return np.corrcoef(one, other)[0, 1]


def test_they_fill_0_to_1_evenly():
    drawn = numbers(7, 3, 200_000)
    assert drawn.min() > 0 and drawn.max() < 1
    counts, _ = np.histogram(drawn, 100, (0, 1))
    chi_squared = ((counts - 2000) ** 2 / 2000).sum().item()
    assert 50 < chi_squared < 160, f"99 degrees of freedom, chi squared {chi_squared:.0f}"


def test_seeds_steps_and_neighbours_have_nothing_in_common():
    """2^32 apart lie the seeds of a batch."""
    first = numbers(0, 0, 50_000)
    others = [(1, 0), (2**32, 0), (2**63 - 1, 0), (0, 1), (0, 2), (0, 10_000), (1, 1)]
    for seed, step in others:
        value = correlation(first, numbers(seed, step, 50_000))
        assert abs(value) < 0.02, f"seed {seed}, step {step}: correlation {value:.3f}"
    for lag in (1, 2, 64, 1000):
        assert abs(correlation(first[:-lag], first[lag:])) < 0.02, f"they repeat after {lag}"
    drawn = {tuple(numbers(seed, step, 4).tolist()) for seed in range(40) for step in range(40)}
    assert len(drawn) == 1600, "two moments share their numbers"


def test_a_world_has_its_numbers_whoever_is_beside_it():
    seeds, steps = np.array([5, -9, 2**62]), np.array([0, 17, 3])
    together = uniform(seeds, steps, 33)
    for row in range(3):
        alone = uniform(seeds[row : row + 1], steps[row : row + 1], 33)[0]
        assert (together[row] == alone).all()


def test_they_are_splitmix64():
    """Against the generator in plain Python."""
    mask = 2**64 - 1

    def scramble(x: int) -> int:
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & mask
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB & mask
        return x ^ (x >> 31)

    golden = 0x9E3779B97F4A7C15
    for seed, step in ((0, 0), (3, 1), (2**40 + 1, 999)):
        key = scramble((scramble(seed * golden & mask) + step * golden) & mask)
        wanted = [((scramble((key + i * golden) & mask) >> 41) + 0.5) / 2**23 for i in range(1, 6)]
        assert numbers(seed, step, 5).tolist() == wanted
