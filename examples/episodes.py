"""Episodes: games are played, and what they show is kept as videos or as rows of a prepared folder.

In: games and a hand. Out: for each episode a lossless video, or its frames in Arrow shards as
`python -m train.prepare --no-cuts` would make them of that video. Chooses no buttons and no names.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from games import Games
from players import Presser

from genie import video
from genie.data.parts import FrameOptions
from genie.data.shards import Shard, ShardWriter, StoredVideo
from genie.errors import UserError

SHORTEST_EPISODE = FrameOptions.min_frames  # stored frames; shorter holds no clip worth training on
MOST_SHORT = 500  # episodes, if none before them was worth keeping
LONGEST_VIDEO = 512  # stored frames; a game that goes on longer fills several videos
SIZE = FrameOptions.size  # of frames in a prepared folder


@dataclass
class Episode:
    """What one game showed and was told since a reset; action t leads from frame t to t+1."""

    level: int
    frames: list[np.ndarray] = field(default_factory=list)
    actions: list[int] = field(default_factory=list)

    @property
    def num_kept(self) -> int:
        """Frames worth storing: all of them, or none of an episode that is too short."""
        return len(self.frames) if len(self.frames) >= SHORTEST_EPISODE else 0


def play_episodes(
    games: Games,
    hand: Presser,
    frame_skip: int,
    num_wanted: int,
    take: Callable[[np.ndarray], np.ndarray] = np.copy,
    tell: Callable[[int], None] = lambda num_frames: None,
) -> Iterator[Episode]:
    """Yield episodes in the order in which they end, until they have `num_wanted` frames in all.

    The games that are still running then are cut and count too; without them, short episodes
    would be overrepresented.

    Args:
        games: are played on from where they are.
        hand: plays them.
        frame_skip: game steps per stored frame.
        num_wanted: stored frames.
        take: what is stored of a picture; an array of its own.
        tell: is given the number of frames so far at every step.

    Raises:
        UserError: if episode after episode is too short.
    """
    num_yielded, num_short = 0, 0
    running = [Episode(level) for level in games.levels]
    while True:
        for episode, picture in zip(running, games.pictures, strict=True):
            episode.frames.append(take(picture))
        num_frames = num_yielded + sum(episode.num_kept for episode in running)
        tell(min(num_frames, num_wanted))
        if num_frames >= num_wanted:
            break
        actions = hand.act(games.pictures)
        # An action into a reset, or into the next video, leads to no frame.
        over = games.advance(actions, frame_skip)
        over |= np.array([len(episode.frames) == LONGEST_VIDEO for episode in running])
        for index in np.flatnonzero(~over):
            running[index].actions.append(int(actions[index]))
        finished = [running[index] for index in np.flatnonzero(over)]
        _restart(running, over, games)
        num_yielded += sum(episode.num_kept for episode in finished)
        num_short += len(finished)
        if num_yielded:
            num_short = 0
        elif num_short >= MOST_SHORT:
            raise UserError(
                f"the first {num_short} episodes end before {SHORTEST_EPISODE} stored frames: give "
                "a smaller --frame-skip, or choose another game"
            )
        yield from (episode for episode in finished if episode.num_kept)
    yield from (episode for episode in running if episode.num_kept)


def _restart(running: list[Episode], over: np.ndarray, games: Games) -> None:
    """Replace the episodes that are over by empty ones on the levels that are on."""
    if over.any():
        levels = games.levels
        for index in np.flatnonzero(over):
            running[index] = Episode(levels[index])


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """A disk that is full, or gone, is told in one line."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write the recording: {error.strerror or error}; choose another --out"
        ) from error


class Keeper(Protocol):
    """Keeps the episodes of one split."""

    @property
    def videos(self) -> list[StoredVideo]:
        """What is in `shards`, in order."""

    @property
    def shards(self) -> list[Shard]:
        """Files that are to be sealed."""

    def take(self, picture: np.ndarray) -> np.ndarray:
        """What is kept of a picture; an array of its own."""

    def keep(self, name: str, episode: Episode) -> None:
        """Write an episode.

        Raises:
            UserError: if it cannot be written.
        """

    def finish(self) -> None:
        """Complete what has been written."""


class VideoKeeper:
    """Keeps episodes as lossless videos of the games' own size."""

    def __init__(self, folder: Path, fps: float) -> None:
        """Args: fps: that the videos declare."""
        self.videos, self.shards = [], []
        self._folder, self._fps = folder, fps

    def take(self, picture: np.ndarray) -> np.ndarray:
        """See `Keeper`."""
        return picture.copy()

    def keep(self, name: str, episode: Episode) -> None:
        """See `Keeper`."""
        path = self._folder / f"{name}.mp4"
        video.write(path, episode.frames, fps=self._fps, lossless=True)

    def finish(self) -> None:
        """See `Keeper`: every video is complete."""


class ArrayKeeper:
    """Keeps episodes as rows of a prepared folder, each a video of one scene."""

    def __init__(self, folder: Path, writer: str) -> None:
        """Args: writer: names the files, since several processes write into the folder."""
        self.videos = []
        self.take = video.Resizer(SIZE)
        self._split, self._writer = folder.name, ShardWriter(folder, SIZE, writer)

    @property
    def shards(self) -> list[Shard]:
        """See `Keeper`."""
        return self._writer.shards

    def keep(self, name: str, episode: Episode) -> None:
        """See `Keeper`."""
        rows = np.ascontiguousarray(np.stack(episode.frames).transpose(0, 3, 1, 2))
        with writing():
            self._writer.write(rows, np.arange(len(rows), dtype=np.int32))
        digest = hashlib.sha256(rows).hexdigest()[:32]
        self.videos.append(StoredVideo(f"{self._split}/{name}", [len(rows)], digest))

    def finish(self) -> None:
        """See `Keeper`."""
        with writing():
            self._writer.finish()
