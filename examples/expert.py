"""Train a player in a real game, whose videos others then learn from: `examples/expert.py`.

In: a game. Out: a file with the player, which `record_game.py --hand` lets play, and its score on
levels that it was not trained on.

    python examples/expert.py --game coinrun --plain --out runs/coinrun-expert.zip
    python examples/record_game.py --game coinrun --plain --arrays --frames 60000 \
        --hand runs/coinrun-expert.zip --out data/coinrun-expert
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from acting import Actor
from arena import Arena
from learning import learn, save
from options import LARGEST_SEED, check_ranges
from players import random_player
from trained import load

from genie.errors import UserError
from genie.files import check_folder
from train.errors import one_line_errors

NUM_GAMES = 64
EPISODES_EACH = 8  # of each game, in the score at the end


@dataclass(frozen=True, kw_only=True)
class ExpertConfig:
    """Train a player in a real game, by its rewards."""

    game: str
    """Game, as in examples/record_game.py."""
    out: Path
    """File to write, such as runs/coinrun-expert.zip."""
    distribution: Literal["easy", "hard"] = "easy"
    """Procgen's difficulty."""
    plain: bool = False
    """Without Procgen's backgrounds and with a single theme."""
    frame_skip: int = 2
    """Game steps per decision."""
    decisions: int = 1_000_000
    """Decisions to learn from, those of all games together."""
    num_levels: int = 100_000
    """Training levels, counted from level 0 (at most 1,000,000)."""
    seed: int = 0
    """Draws first weights, decisions and, in Procgen, levels."""


def main(config: ExpertConfig) -> None:
    """Train, write the player, and print what it earns on other levels.

    Raises:
        UserError: a value is out of range, there is no such game, or it is not installed.
    """
    check(config)
    arena = Arena(
        game=config.game,
        distribution=config.distribution,
        plain=config.plain,
        frame_skip=config.frame_skip,
    )
    with arena.open(NUM_GAMES, config.seed, levels=(0, config.num_levels)) as games:
        player = learn(games, config.frame_skip, config.decisions, config.seed, config.game)
    save(player, config.out, config.game)
    print(f"{config.out}: {score(arena, config)}")


def check(config: ExpertConfig) -> None:
    """Reject invalid options before anything is done."""
    ranges = {"decisions": (1, None), "num_levels": (1, 1_000_000), "seed": (0, LARGEST_SEED)}
    check_ranges(config, ranges)
    if config.out.suffix != ".zip" or config.out.exists():
        raise UserError(f"--out is {config.out}: give a new name that ends in .zip")
    check_folder(config.out.parent)


def score(arena: Arena, config: ExpertConfig) -> str:
    """What the player earns in an episode on other levels, beside random buttons."""
    texts = []
    for name in ("trained", "random"):
        with arena.open(NUM_GAMES, config.seed) as games:
            num_combos = len(games.combos)
            if name == "trained":
                shares = load(config.out, config.game, num_combos)
                player = Actor(shares, NUM_GAMES, np.random.default_rng(config.seed))
            else:
                player = random_player(num_combos, NUM_GAMES, config.seed)
            returns = arena.returns(games, player, EPISODES_EACH)
        margin = 1.96 * returns.std() / len(returns) ** 0.5
        texts.append(f"{name} {returns.mean():.2f} +- {margin:.2f}")
    return ", ".join(texts) + f" in an episode ({NUM_GAMES * EPISODES_EACH} episodes)"


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(ExpertConfig, description=__doc__))
