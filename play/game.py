"""What play needs of anything that can be played: a `genie` session, a recording, a stand-in.

Deliberately says nothing of worlds and prompts: whoever makes the `StartGame` binds them.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np


class Settings(NamedTuple):
    """How frames are drawn; may change while a game runs."""

    maskgit_steps: int
    """Passes over a frame at most, at least 1."""
    temperature: float
    """Of the token draws, 0 or more."""

    @property
    def passes(self) -> str:
        """For people: how many passes a frame takes."""
        return "1 pass" if self.maskgit_steps == 1 else f"up to {self.maskgit_steps} passes"


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

    def futures(self) -> Iterator[np.ndarray]:
        """What holding each action would give, uint8 (actions, h, w, 3) a frame; nothing moves."""

    def tune(self, *, maskgit_steps: int | None = None, temperature: float | None = None) -> None:
        """Draw frames otherwise from the next step on."""

    def snapshot(self) -> Any:
        """Everything that later frames depend on but the settings, to be handed to `restore`."""

    def restore(self, snapshot: Any) -> None:
        """Go back to where `snapshot` was taken; what follows is bit-identical."""


StartGame = Callable[[int, Settings], Game]
"""Starts a game afresh with a seed: the same seed and settings give the same first frame."""
