"""What a trained player sees: the newest pictures of each game, small and all of one size.

In: the pictures that games show. Out: uint8 arrays that nets take. Chooses no buttons.
"""

from collections.abc import Sequence

import numpy as np

from genie import video

SIZE = 64, 64
NUM_PICTURES = 2  # one alone does not show how fast anything moves
SHAPE = 3 * NUM_PICTURES, *SIZE


class Sight:
    """The newest `NUM_PICTURES` pictures of several games."""

    def __init__(self, num_games: int) -> None:
        self._resize = video.Resizer(SIZE)
        self._seen = np.zeros((num_games, *SHAPE), np.uint8)
        self._is_new = np.ones(num_games, dtype=bool)

    def forget(self, started: np.ndarray) -> None:
        """Start anew where an episode has begun. Args: started: bool (n)."""
        self._is_new |= started

    def look(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Return the newest pictures as channels, the newest last, uint8 (n, 6, 64, 64).

        An episode's first picture fills the place of those that there were not.

        Args:
            pictures: uint8 (h, w, 3) of each game.
        """
        newest = np.stack([self._resize(picture) for picture in pictures]).transpose(0, 3, 1, 2)
        filled = np.tile(newest, (1, NUM_PICTURES, 1, 1))
        moved = np.concatenate([self._seen[:, 3:], newest], axis=1)
        self._seen = np.where(self._is_new[:, None, None, None], filled, moved)
        self._is_new[:] = False
        return self._seen
