"""Learning to play by rewards, in games that are real or dreamt.

In: games. Out: a player of Stable-Baselines3, and its file. Knows no levels and no scores.

Source: PPO (Schulman et al. 2017, arXiv:1707.06347), by Stable-Baselines3, with the net of Mnih et
al. 2015, which is smaller than the one that is usual for Procgen (Cobbe et al. 2020).
"""

from pathlib import Path
from typing import Any

import numpy as np
from baselines import PPO, BaseCallback, VecEnv
from games import Games
from gymnasium import spaces
from sight import SHAPE, Sight
from tqdm import tqdm
from trained import PLACE

from genie.files import whole, writing


def learn(games: Games, frame_skip: int, decisions: int, seed: int, name: str) -> PPO:
    """Train a player by PPO. An episode that is cut off counts as one that has ended.

    Args:
        games: are continued from where they are.
        frame_skip: game steps per decision.
        decisions: those of all games together, rounded up to rollouts of up to 64 per game.
        seed: of first weights and decisions.
        name: for the progress bar.
    """
    vector = Vector(games, frame_skip)
    rollout = max(2, min(64, decisions // vector.num_envs))
    player = PPO(
        "CnnPolicy",
        vector,
        n_steps=rollout,
        batch_size=min(512, rollout * vector.num_envs),
        n_epochs=3,
        learning_rate=lambda left: 5e-4 * left,
        gamma=0.99,
        ent_coef=0.01,
        seed=seed,
        device="cpu",
    )
    return player.learn(decisions, callback=Progress(decisions, vector, name))


def save(player: PPO, path: Path, place: str) -> None:
    """Write a player's file, which `trained.load` loads.

    Args:
        place: where it has learnt: the name of a game.

    Raises:
        UserError: if it cannot be written.
    """
    setattr(player, PLACE, place)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as partial, partial.open("wb") as file:
            player.save(file)


class Vector(VecEnv):
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

    def __init__(self, total: int, games: Vector, name: str) -> None:
        super().__init__()
        self._games = games
        self._bar = tqdm(total=total, unit=" decisions", desc=name)

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        returns = self._games.returns[-256:]
        self._bar.set_postfix_str(f"return {np.mean(returns):.2f}" if returns else "")
        self._bar.update(self.num_timesteps - self._bar.n)

    def _on_training_end(self) -> None:
        self._bar.close()
