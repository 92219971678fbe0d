"""Worlds as environments: a vector of them, as many single ones, and the real game."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import gymnasium
import numpy as np

import genie.env  # noqa: F401, registers the environment
from tests.benchmarks.timing import ratio, take_turns

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ENDLESS = 10**9


def throughput(world: str, counts: tuple[int, ...], rounds: int) -> list[dict]:
    """Frames per second by the number of environments, each compared with as many single ones."""
    rows = []
    for count in counts:
        functions = {"vector": _vector(world, count), "single": _singles(world, count)}
        if importlib.util.find_spec("procgen"):
            functions["procgen"] = _procgen(count)
        seconds = take_turns(functions, rounds)
        rows.append(
            {
                "world": world,
                "environments": count,
                **{f"{name}, frames/s": count / times.mean() for name, times in seconds.items()},
                "vector over single": ratio(seconds["single"], seconds["vector"]),
            }
        )
    return rows


def _vector(world: str, count: int) -> Callable[[], object]:
    envs = gymnasium.make_vec(
        "GenieWorld-v0", num_envs=count, world=world, max_episode_steps=ENDLESS
    )
    envs.reset(seed=0)
    generator = np.random.default_rng(0)
    return lambda: envs.step(generator.integers(envs.single_action_space.n, size=count))


def _singles(world: str, count: int) -> Callable[[], object]:
    envs = [
        gymnasium.make("GenieWorld-v0", world=world, max_episode_steps=ENDLESS)
        for _ in range(count)
    ]
    for number, env in enumerate(envs):
        env.reset(seed=number)
    generator = np.random.default_rng(0)
    return lambda: [env.step(int(generator.integers(env.action_space.n))) for env in envs]


def _procgen(count: int) -> Callable[[], object]:
    sys.path.insert(0, str(EXAMPLES))
    open_games = importlib.import_module("games").open_games
    games = open_games(
        "coinrun", num_envs=count, first_level=0, num_levels=1000, seed=0, plain=True
    )
    generator = np.random.default_rng(0)
    return lambda: games.advance(generator.integers(len(games.combos), size=count), 2)
