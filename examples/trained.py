"""A player that `expert.py` trained, from its file.

In: the pictures that games show. Out: a button combination for each game. Learns nothing.
"""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mapping import Dictionary, draw
from sight import SHAPE, Sight

from genie.errors import UserError


class TrainedPlayer:
    """Draws each button combination from the distribution that the net gives."""

    def __init__(
        self,
        path: Path,
        num_choices: int,
        num_games: int,
        generator: np.random.Generator,
        mapping: Dictionary | None = None,
    ) -> None:
        """Load the net.

        Args:
            path: the file that `expert.py` wrote.
            num_choices: button combinations of the game that it is to play or, with a mapping,
                latent actions of the world that it was trained in.
            num_games: played side by side.
            generator: of its draws.
            mapping: from latent actions to buttons.

        Raises:
            UserError: if there is no such player, or it was trained in a game with other buttons.
        """
        from baselines import PPO

        try:
            self._net = PPO.load(path, device="cpu").policy
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} is no player of examples/expert.py") from error
        choices = getattr(self._net.action_space, "n", None)
        if self._net.observation_space.shape != SHAPE or choices != num_choices:
            raise UserError(
                f"{path} was trained in a game with {choices} button combinations, this one has "
                f"{num_choices}: train one with examples/expert.py"
            )
        self._sight, self._generator, self._mapping = Sight(num_games), generator, mapping

    def restart(self, started: np.ndarray) -> None:
        """See `Player`."""
        self._sight.forget(started)

    def act(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """See `Player`."""
        import torch

        seen, _ = self._net.obs_to_tensor(self._sight.look(pictures))
        with torch.inference_mode():
            distribution: Any = self._net.get_distribution(seen).distribution
        chosen = draw(distribution.probs.double().numpy(), self._generator)
        return chosen if self._mapping is None else self._mapping.draw(chosen, self._generator)
