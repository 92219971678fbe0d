"""One play from its prompt on: steps a game, remembers what was shown, and goes back in time.

In: actions. Out: frames, digests of them, latencies. Going back shows frames that are remembered;
only when play goes on from there is the game itself brought back, from a snapshot of a little
earlier and the actions since. Deliberately knows nothing of keys or screens.
"""

import time
from collections import deque
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np

from play.game import Game, Settings
from play.recording import digest

DEFAULT_EXPORT = Path("rollout.gif")
KEYFRAME_EVERY = 16
"""Steps between two snapshots: a snapshot copies the game's memory, a step costs a frame."""


class Bookmark(NamedTuple):
    """A moment to come back to."""

    snapshot: object
    actions: tuple[int, ...]
    settings: tuple[Settings, ...]
    digests: tuple[str, ...]
    frames: tuple[np.ndarray, ...]
    keyframes: tuple[tuple[int, object], ...]


class Playthrough:
    """Plays a game and remembers the frames, the first one included.

    Args:
        game: a game that has just started.
        settings: those that it was started with.
        max_frames: keep only this many newest frames; None keeps all. Actions and digests are all
            kept.
        reach: how many frames one can go back, less than `max_frames`; 0 saves the snapshots.
    """

    def __init__(
        self,
        game: Game,
        settings: Settings,
        *,
        max_frames: int | None = None,
        reach: int = 0,
    ) -> None:
        self.game, self.reach = game, reach
        self.latencies_ms: deque[float] = deque(maxlen=max_frames)
        self.settings = settings
        """Of the next step."""
        self._frames: deque[np.ndarray] = deque([game.frame], maxlen=max_frames)
        self._actions: list[int] = []
        self._used: list[Settings] = []
        self._digests = [digest(game.frame)]
        self._back = 0
        self._keyframes: deque[tuple[int, object]] = deque()
        self._keep_keyframe()

    @property
    def position(self) -> int:
        """Steps from the start to what is shown."""
        return len(self._actions) - self._back

    @property
    def frame(self) -> np.ndarray:
        """What is shown, uint8 (h, w, 3)."""
        return self._frames[-1 - self._back]

    @property
    def frames(self) -> tuple[np.ndarray, ...]:
        """All that is remembered, up to what is shown."""
        return tuple(self._frames)[: len(self._frames) - self._back]

    @property
    def actions(self) -> tuple[int, ...]:
        """What led from the start to what is shown."""
        return tuple(self._actions[: self.position])

    @property
    def used_settings(self) -> tuple[Settings, ...]:
        """Those under which each of the actions was taken."""
        return tuple(self._used[: self.position])

    @property
    def digests(self) -> tuple[str, ...]:
        """One for the start and one for the frame after each action."""
        return tuple(self._digests[: self.position + 1])

    def step(self, action: int) -> np.ndarray:
        """Go on from what is shown; gives the new frame. What had been rewound is forgotten."""
        self._return()
        began = time.perf_counter()
        frame = self.game.step(action)
        self.latencies_ms.append((time.perf_counter() - began) * 1000)
        self._frames.append(frame)
        self._actions.append(action)
        self._used.append(self.settings)
        self._digests.append(digest(frame))
        if self.position % KEYFRAME_EVERY == 0:
            self._keep_keyframe()
        return frame

    def prepare(self, likely: int | None = None) -> None:
        """Spend idle time on the next step."""
        if not self._back:
            self.game.prepare(likely)

    def futures(self) -> Iterator[np.ndarray]:
        """What holding each action from what is shown on would give; see `Game.futures`."""
        self._return()
        return self.game.futures()

    def rewind(self) -> bool:
        """Show the frame before; False if there is none within reach."""
        oldest = self._keyframes[0][0] if self._keyframes else self.position
        if self.position <= oldest or self._back >= min(self.reach, len(self._frames) - 1):
            return False
        self._back += 1
        return True

    def tune(self, settings: Settings) -> None:
        """Draw frames otherwise from the next step on.

        Raises:
            UserError: if a number is out of range; then all stays as it is.
        """
        self.game.tune(**settings._asdict())
        self.settings = settings

    def bookmark(self) -> Bookmark:
        """The moment that is shown."""
        self._return()
        return Bookmark(
            snapshot=self.game.snapshot(),
            actions=self.actions,
            settings=self.used_settings,
            digests=self.digests,
            frames=self.frames,
            keyframes=tuple(self._keyframes),
        )

    def go_to(self, bookmark: Bookmark) -> None:
        """Come back to a bookmark of this playthrough; the settings stay the present ones."""
        self.game.restore(bookmark.snapshot)
        self._back = 0
        self._actions, self._used = list(bookmark.actions), list(bookmark.settings)
        self._digests = list(bookmark.digests)
        self._frames.clear()
        self._frames.extend(bookmark.frames)
        self._keyframes = deque(bookmark.keyframes)

    def _keep_keyframe(self) -> None:
        if self.reach:
            self._keyframes.append((len(self._actions), self.game.snapshot()))
            while len(self._keyframes) > 1 and self._keyframes[1][0] <= self.position - self.reach:
                self._keyframes.popleft()

    def _return(self) -> None:
        """Bring the game to what is shown, and forget what came later."""
        if not self._back:
            return
        position = self.position
        while self._keyframes[-1][0] > position:
            self._keyframes.pop()
        start, snapshot = self._keyframes[-1]
        self.game.restore(snapshot)
        for action, settings in zip(
            self._actions[start:position], self._used[start:position], strict=True
        ):
            self.game.tune(**settings._asdict())
            self.game.step(action)
        self.game.tune(**self.settings._asdict())
        for _ in range(self._back):
            self._frames.pop()
        del self._actions[position:], self._used[position:], self._digests[position + 1 :]
        self._back = 0


def free_name(path: Path) -> Path:
    """`path` itself, or the first of `name-1.gif`, `name-2.gif`, ... that is not taken."""
    if not path.exists():
        return path
    numbered = (path.with_stem(f"{path.stem}-{number}") for number in count(1))
    return next(candidate for candidate in numbered if not candidate.exists())
