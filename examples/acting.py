"""A player that draws what it does from probabilities that a net gives for what it sees.

In: the pictures that games show. Out: a button combination for each game. Learns nothing.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, UInt8
from mapping import Dictionary, draw
from sight import Sight

Shares = Callable[[UInt8[np.ndarray, "n 6 h w"]], Float[np.ndarray, "n k"]]
"""From what `Sight` shows to the probabilities of what can be done."""


class Actor:
    """Plays several games by the same probabilities."""

    def __init__(
        self,
        shares: Shares,
        num_games: int,
        generator: np.random.Generator,
        mapping: Dictionary | None = None,
    ) -> None:
        """Args: mapping: from latent actions to buttons; None if buttons are what is drawn."""
        self._shares, self._generator, self._mapping = shares, generator, mapping
        self._sight = Sight(num_games)

    def restart(self, started: np.ndarray) -> None:
        """See `Player`."""
        self._sight.forget(started)

    def act(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """See `Player`."""
        chosen = draw(self._shares(self._sight.look(pictures)), self._generator)
        return chosen if self._mapping is None else self._mapping.draw(chosen, self._generator)
