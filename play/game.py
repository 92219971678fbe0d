"""What play needs of anything that can be played: a `genie` session, a recording, a stand-in.

Deliberately says nothing of worlds, prompts or seeds: whoever makes the `StartGame` binds them.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np


class Game(Protocol):
    """A running game: the same actions after the same start give the same frames."""

    @property
    def frame(self) -> np.ndarray:
        """Newest picture, uint8 (h, w, 3), 0..255."""

    @property
    def num_actions(self) -> int:
        """How many actions there are; valid ones are 0..num_actions-1."""

    def step(self, action: int) -> np.ndarray:
        """Advance by one frame under `action` and return it as `frame` does."""

    def prepare(self, likely: int | None = None) -> None:
        """Spend idle time on the next step, best one under `likely`; no frame changes by it."""

    def snapshot(self) -> object:
        """Everything that later frames depend on, to be handed to `restore`."""

    def restore(self, snapshot: object) -> None:
        """Go back to where `snapshot` was taken; what follows is bit-identical."""


StartGame = Callable[[], Game]
"""Starts the same game afresh: each call gives the same first frame."""
