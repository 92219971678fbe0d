"""One playthrough from its prompt on: steps a game, stores its frames, and rewinds.

In: presses. Out: frames, their digests, latencies. Rewinding shows stored frames; the game itself
is restored only when play continues from there, from the last snapshot before that frame and the
actions since. Knows neither keyboards nor screens.
"""

import time
from collections import deque
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np

from play.game import Game, Press, Settings, exactly
from play.recording import digest

DEFAULT_EXPORT = Path("rollout.gif")
KEYFRAME_EVERY = 16
"""Steps between two snapshots. Taking one copies the game's state; restoring one repeats the steps
since it."""


class Step(NamedTuple):
    """How one frame came about."""

    action: int
    settings: Settings
    wished: str | None
    """The key that was held if it was a wish, of which the game chose `action`; else None."""
    digest: str
    """Of the frame that it led to."""


class Bookmark(NamedTuple):
    """The state of a playthrough at one frame, to return to."""

    snapshot: object
    steps: tuple[Step, ...]
    frames: tuple[np.ndarray, ...]
    keyframes: tuple[tuple[int, object], ...]


class Playthrough:
    """Plays a game and stores its frames, including the first one.

    Args:
        game: a game that has just started.
        settings: settings that it was started with.
        max_frames: number of newest frames to store; None stores all. Every `Step` is stored.
        reach: number of frames that can be rewound, less than `max_frames`; 0 takes no snapshots.
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
        """Settings of the next step."""
        self._frames: deque[np.ndarray] = deque([game.frame], maxlen=max_frames)
        self._steps: list[Step] = []
        self._first_digest = digest(game.frame)
        self._num_rewound = 0
        self._keyframes: deque[tuple[int, object]] = deque()
        self._add_keyframe()

    @property
    def position(self) -> int:
        """Number of steps from the start to the shown frame."""
        return len(self._steps) - self._num_rewound

    @property
    def frame(self) -> np.ndarray:
        """The shown frame, uint8 (h, w, 3)."""
        return self._frames[-1 - self._num_rewound]

    @property
    def frames(self) -> tuple[np.ndarray, ...]:
        """The stored frames up to the shown one, uint8 (h, w, 3)."""
        return tuple(self._frames)[: len(self._frames) - self._num_rewound]

    @property
    def steps(self) -> tuple[Step, ...]:
        """Steps from the start to the shown frame."""
        return tuple(self._steps[: self.position])

    @property
    def actions(self) -> tuple[int, ...]:
        """Actions from the start to the shown frame."""
        return tuple(step.action for step in self.steps)

    @property
    def digests(self) -> tuple[str, ...]:
        """Digests of the first frame and of the frame after each of `actions`."""
        return self._first_digest, *(step.digest for step in self.steps)

    @property
    def shown_digest(self) -> str:
        """Digest of the shown frame."""
        return self._steps[self.position - 1].digest if self.position else self._first_digest

    def step(self, action: int) -> np.ndarray:
        """Step from the shown frame and return the new one; rewound frames are dropped."""
        return self.follow(exactly(action))

    def follow(self, press: Press) -> np.ndarray:
        """Step under the action that a press means at the shown frame; else as `step`."""
        self._restore_game()
        began = time.perf_counter()
        action = self._meant(press)
        frame = self.game.step(action)
        self.latencies_ms.append((time.perf_counter() - began) * 1000)
        self._frames.append(frame)
        wished = press.key if press.wish else None
        self._steps.append(Step(action, self.settings, wished, digest(frame)))
        if self.position % KEYFRAME_EVERY == 0:
            self._add_keyframe()
        return frame

    def prepare(self, likely: Press) -> None:
        """Use idle time to make the next step faster; see `Game.prepare`."""
        if not self._num_rewound:
            self.game.prepare(self._meant(likely))

    def futures(self) -> Iterator[np.ndarray]:
        """Futures of the shown frame under each action; see `Game.futures`."""
        self._restore_game()
        return self.game.futures()

    def rewind(self) -> bool:
        """Show the previous frame; return False if there is none within reach."""
        oldest = self._keyframes[0][0] if self._keyframes else self.position
        if self.position <= oldest or self._num_rewound >= min(self.reach, len(self._frames) - 1):
            return False
        self._num_rewound += 1
        return True

    def tune(self, settings: Settings) -> None:
        """Change the sampling settings from the next step on.

        Raises:
            UserError: if a value is out of range; then both settings stay as they are.
        """
        self.game.tune(**settings._asdict())
        self.settings = settings

    def bookmark(self) -> Bookmark:
        """Bookmark the shown frame; rewound frames are dropped."""
        self._restore_game()
        return Bookmark(
            snapshot=self.game.snapshot(),
            steps=self.steps,
            frames=self.frames,
            keyframes=tuple(self._keyframes),
        )

    def go_to(self, bookmark: Bookmark) -> None:
        """Return to a bookmark of this playthrough; keeps the current settings."""
        self.game.restore(bookmark.snapshot)
        self._num_rewound = 0
        self._steps = list(bookmark.steps)
        self._frames.clear()
        self._frames.extend(bookmark.frames)
        self._keyframes = deque(bookmark.keyframes)

    def _meant(self, press: Press) -> int:
        return self.game.choose(press.wish) if press.wish else press.action

    def _add_keyframe(self) -> None:
        if self.reach:
            self._keyframes.append((len(self._steps), self.game.snapshot()))
            while len(self._keyframes) > 1 and self._keyframes[1][0] <= self.position - self.reach:
                self._keyframes.popleft()

    def _restore_game(self) -> None:
        """Bring the game to the shown frame, and drop all later frames."""
        if not self._num_rewound:
            return
        position = self.position
        while self._keyframes[-1][0] > position:
            self._keyframes.pop()
        start, snapshot = self._keyframes[-1]
        self.game.restore(snapshot)
        for step in self._steps[start:position]:
            self.game.tune(**step.settings._asdict())
            self.game.step(step.action)
        self.game.tune(**self.settings._asdict())
        for _ in range(self._num_rewound):
            self._frames.pop()
        del self._steps[position:]
        self._num_rewound = 0


def free_name(path: Path) -> Path:
    """`path` itself, or the first of `name-1.gif`, `name-2.gif`, ... that is not taken."""
    if not path.exists():
        return path
    numbered = (path.with_stem(f"{path.stem}-{number}") for number in count(1))
    return next(candidate for candidate in numbered if not candidate.exists())
