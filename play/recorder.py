"""Plays a game and keeps what a person may want to save: frames, actions, how long each took.

In: actions. Out: frames, digests of them, latencies. Deliberately knows nothing of keys or screens.
"""

import time
from collections import deque
from itertools import count
from pathlib import Path

import numpy as np

from play.game import Game
from play.recording import digest

DEFAULT_EXPORT = Path("rollout.gif")


class Recorder:
    """Steps a game and remembers the frames, the first one included.

    Args:
        game: a game that has just started.
        max_frames: keep only this many newest frames; None keeps all. Actions and digests are all
            kept.
    """

    def __init__(self, game: Game, max_frames: int | None = None) -> None:
        self.game = game
        self.frames: deque[np.ndarray] = deque([game.frame], maxlen=max_frames)
        self.latencies_ms: deque[float] = deque(maxlen=max_frames)
        self.actions: list[int] = []
        self.digests = [digest(game.frame)]

    def step(self, action: int) -> np.ndarray:
        """Step the game, timing it, and return the new frame."""
        began = time.perf_counter()
        frame = self.game.step(action)
        self.latencies_ms.append((time.perf_counter() - began) * 1000)
        self.frames.append(frame)
        self.actions.append(action)
        self.digests.append(digest(frame))
        return frame


def free_name(path: Path) -> Path:
    """`path` itself, or the first of `name-1.gif`, `name-2.gif`, ... that is not taken."""
    if not path.exists():
        return path
    numbered = (path.with_stem(f"{path.stem}-{number}") for number in count(1))
    return next(candidate for candidate in numbered if not candidate.exists())
