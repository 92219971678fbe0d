"""The interface of a running game, such as a `genie` session or a test's stand-in.

Contains no worlds and prompts: whoever creates a `StartGame` chooses them.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np


class Settings(NamedTuple):
    """Sampling settings, which may change while a game runs."""

    maskgit_steps: int
    """Maximum number of MaskGIT passes per frame, at least 1."""
    temperature: float
    """Sampling temperature of the tokens, 0 or more."""

    @property
    def passes(self) -> str:
        """Text for the user: how many passes a frame takes."""
        return "1 pass" if self.maskgit_steps == 1 else f"up to {self.maskgit_steps} passes"


class Press(NamedTuple):
    """What the held keys ask for: one action, or whatever fits a wish best at that moment."""

    action: int
    """Latent action, 0..num_actions-1. Of a wish, the key's own, or the one that fits best if the
    key has none: to be shown, while the game chooses the one that is played."""
    key: str
    """Name of the key, of the chord, or "none"."""
    wish: tuple[float, ...] | None = None
    """A weight for each action, see `Game.choose`; None asks for this very action."""


def exactly(action: int) -> Press:
    """A press that means this very action, as a digit does."""
    return Press(action, str(action + 1))


class Game(Protocol):
    """A running game: the same actions after the same start give the same frames."""

    @property
    def frame(self) -> np.ndarray:
        """Newest frame, uint8 (h, w, 3), 0..255."""

    @property
    def num_actions(self) -> int:
        """How many actions there are; valid ones are 0..num_actions-1."""

    def step(self, action: int) -> np.ndarray:
        """Advance by one frame under `action` and return it as `frame` does."""

    def choose(self, wish: Sequence[float]) -> int:
        """An action that fits both this moment and `wish`, a weight for each action.

        Until the next `step`, the same wish gives the same action.
        """

    def prepare(self, likely: int | None = None) -> None:
        """Use idle time to make the next `step` faster, most of all under `likely`.

        Frames are the same as without it.
        """

    def futures(self) -> Iterator[np.ndarray]:
        """Yield without end the next frame under each action if it were held from now on.

        Each is uint8 (num_actions, h, w, 3). This game does not advance.
        """

    def tune(self, *, maskgit_steps: int | None = None, temperature: float | None = None) -> None:
        """Change the sampling settings from the next step on; None leaves one as it is."""

    def snapshot(self) -> Any:
        """Return all state that later frames depend on, except the settings, for `restore`."""

    def restore(self, snapshot: Any) -> None:
        """Return to the state of `snapshot`; under the same actions, frames are bit-identical."""


StartGame = Callable[[int, Settings], Game]
"""Starts a new game with a seed and settings; the same ones give the same game."""
