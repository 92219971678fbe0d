"""Train a player in a real game, whose videos others then learn from: `examples/expert.py`.

In: a game. Out: a file with the player, which `record_game.py --hand` lets play, and its score on
levels that it was not trained on. The only example that learns from rewards in the real game.

    python examples/expert.py --game coinrun --plain --out runs/coinrun-expert.zip
    python examples/record_game.py --game coinrun --plain --arrays --frames 60000 \
        --hand runs/coinrun-expert.zip --out data/coinrun-expert

Source: PPO (Schulman et al. 2017, arXiv:1707.06347), by Stable-Baselines3, with the net of Mnih et
al. 2015; both are the usual ones for Procgen (Cobbe et al. 2020) but for the net's size.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from arena import Arena
from baselines import PPO, BaseCallback, VecEnv
from games import Games
from gymnasium import spaces
from players import random_player
from sight import SHAPE, Sight
from tqdm import tqdm
from trained import TrainedPlayer

from genie.errors import UserError
from genie.files import check_folder, whole, writing
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
    """Draws levels, first weights and decisions."""


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
        train(config, GamesOfOne(games, config.frame_skip))
    print(f"{config.out}: {score(arena, config)}")


def check(config: ExpertConfig) -> None:
    """Reject invalid options before anything is done."""
    ranges = {"decisions": (1, None), "frame_skip": (1, 16), "num_levels": (1, 1_000_000)}
    for name, (least, most) in ranges.items():
        value = getattr(config, name)
        if value < least or (most is not None and value > most):
            wanted = f"at least {least}" if most is None else f"{least} to {most}"
            raise UserError(f"--{name.replace('_', '-')} is {value}; give {wanted}")
    if config.out.suffix != ".zip":
        raise UserError(f"--out is {config.out}: give a name that ends in .zip")
    check_folder(config.out.parent)


def train(config: ExpertConfig, games: "GamesOfOne") -> None:
    """Train by PPO and write the player."""
    player = PPO(
        "CnnPolicy",
        games,
        n_steps=64,
        batch_size=512,
        n_epochs=3,
        learning_rate=lambda left: 5e-4 * left,
        gamma=0.99,
        ent_coef=0.01,
        seed=config.seed,
        device="cpu",
    )
    player.learn(config.decisions, callback=Progress(config.decisions, games))
    with writing(config.out):
        config.out.parent.mkdir(parents=True, exist_ok=True)
        with whole(config.out) as partial, partial.open("wb") as file:
            player.save(file)


def score(arena: Arena, config: ExpertConfig) -> str:
    """What the player earns in an episode on other levels, beside random buttons."""
    texts = []
    for name in ("trained", "random"):
        with arena.open(NUM_GAMES, config.seed) as games:
            num_combos = len(games.combos)
            player = (
                TrainedPlayer(config.out, num_combos, NUM_GAMES, np.random.default_rng(config.seed))
                if name == "trained"
                else random_player(num_combos, NUM_GAMES, config.seed)
            )
            returns = arena.returns(games, player, EPISODES_EACH)
        margin = 1.96 * returns.std() / len(returns) ** 0.5
        texts.append(f"{name} {returns.mean():.2f} +- {margin:.2f}")
    return ", ".join(texts) + f" in an episode ({NUM_GAMES * EPISODES_EACH} episodes)"


class GamesOfOne(VecEnv):
    """Games as Stable-Baselines3 wants them."""

    def __init__(self, games: Games, frame_skip: int) -> None:
        self._games, self._frame_skip, self.render_mode = games, frame_skip, None
        self._sight = Sight(len(games.levels))
        observations = spaces.Box(0, 255, SHAPE, np.uint8)
        super().__init__(len(games.levels), observations, spaces.Discrete(len(games.combos)))
        self.returns: list[float] = []
        """Of the episodes that have ended."""
        self._earned = np.zeros(self.num_envs)

    def reset(self) -> np.ndarray:
        """Pictures from where the games are: they restart by themselves."""
        return self._sight.look(self._games.pictures)

    def step_async(self, actions: np.ndarray) -> None:
        """Note the actions."""
        self._actions = actions.astype(np.int32)

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict]]:
        """Take them."""
        over = self._games.advance(self._actions, self._frame_skip)
        rewards = self._games.rewards.astype(np.float32)
        self._earned += rewards
        self.returns += self._earned[over].tolist()
        self._earned[over] = 0
        self._sight.forget(over)
        return self._sight.look(self._games.pictures), rewards, over, [{} for _ in over]

    def close(self) -> None:
        """Nothing: who opened the games closes them."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The same attribute for each game."""
        return [getattr(self, attr_name)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Not needed here."""
        raise NotImplementedError

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> Any:
        """Not needed here."""
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """No game is."""
        return [False] * self.num_envs


class Progress(BaseCallback):
    """A bar with the mean return of the newest episodes."""

    def __init__(self, total: int, games: GamesOfOne) -> None:
        super().__init__()
        self._games = games
        self._bar = tqdm(total=total, unit=" decisions")

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        returns = self._games.returns[-256:]
        self._bar.set_postfix_str(f"return {np.mean(returns):.2f}" if returns else "")
        self._bar.update(self.num_timesteps - self._bar.n)

    def _on_training_end(self) -> None:
        self._bar.close()


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(ExpertConfig, description=__doc__))
