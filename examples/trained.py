"""A player that was trained by `learning.py`, from its file.

In: the pictures that games show. Out: a button combination for each game. Learns nothing.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mapping import Dictionary, draw
from sight import Sight

from genie.errors import UserError

PLACE = "learnt_in"  # the name under which a player's file says where it has learnt


class TrainedPlayer:
    """Draws each button combination from the distribution that the net gives."""

    def __init__(
        self,
        path: Path,
        place: str,
        num_choices: int,
        num_games: int,
        generator: np.random.Generator,
        mapping: Dictionary | None = None,
    ) -> None:
        """Load the net.

        Args:
            path: the file that `learning.save` wrote.
            place: where it must have learnt, see `learning.save`.
            num_choices: button combinations of the game that it is to play or, with a mapping,
                latent actions of the world that it was trained in.
            num_games: played side by side.
            generator: of its draws.
            mapping: from latent actions to buttons.

        Raises:
            UserError: if there is no such player, or it has learnt elsewhere.
        """
        from baselines import PPO

        if not path.is_file():
            raise UserError(f"there is no file {path}: train a player with examples/expert.py")
        try:
            loaded = PPO.load(path, device="cpu")
        except Exception as error:  # pickle, zip, JSON and torch each have their own
            raise UserError(f"{path} holds no player: train one with examples/expert.py") from error
        learnt_in = getattr(loaded, PLACE, None)
        if learnt_in != place or getattr(loaded.action_space, "n", None) != num_choices:
            raise UserError(
                f"the player {path} has learnt in {learnt_in}, not in {place}: train one there"
            )
        self._net = loaded.policy
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
