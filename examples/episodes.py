"""Episodes: plays games and stores what they show, as videos or as rows of a prepared folder.

In: games and a hand. Out: for each episode a lossless video, or its frames in Arrow shards as
`python -m train.prepare --no-cuts` would make them from that video. Chooses no buttons or names.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from games import Games
from players import Player

from genie import video
from genie.data.parts import FrameOptions
from genie.data.shards import Shard, ShardWriter, StoredVideo
from genie.errors import UserError

SHORTEST_EPISODE = FrameOptions.min_frames  # stored frames; shorter ones are not used for training
MOST_SHORT = 500  # episodes that are all too short, after which recording fails
LONGEST_VIDEO = 512  # stored frames; a longer episode fills several videos
SIZE = FrameOptions.size  # height and width of frames in a prepared folder


@dataclass
class Episode:
    """A game's frames and actions since a reset or a full video; action t leads to frame t+1."""

    level: int
    frames: list[np.ndarray] = field(default_factory=list)
    actions: list[int] = field(default_factory=list)

    @property
    def num_kept(self) -> int:
        """Number of frames to store: all, or none if the episode is too short."""
        return len(self.frames) if len(self.frames) >= SHORTEST_EPISODE else 0


def play_episodes(
    games: Games,
    hand: Player,
    frame_skip: int,
    num_wanted: int,
    take: Callable[[np.ndarray], np.ndarray] = np.copy,
    tell: Callable[[int], None] = lambda num_frames: None,
) -> Iterator[Episode]:
    """Yield episodes in the order in which they end, until they have `num_wanted` frames in all.

    Games that are still running then are cut off and included; without them, short episodes would
    be overrepresented.

    Args:
        games: are continued from their current state.
        hand: chooses the actions.
        frame_skip: game steps per stored frame.
        num_wanted: number of stored frames in all.
        take: makes the frame to store from a picture, as a new array.
        tell: called with the number of frames so far, at every step.

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
        # An action that ends an episode or a video leads to no frame of it.
        over = games.advance(actions, frame_skip)
        hand.restart(over)
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
    """Replace the episodes that are over by empty ones on the games' current levels."""
    if over.any():
        levels = games.levels
        for index in np.flatnonzero(over):
            running[index] = Episode(levels[index])


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Report a full or missing disk as a `UserError` of one line."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write the recording: {error.strerror or error}; choose another --out"
        ) from error


class Keeper(Protocol):
    """Stores the episodes of one split."""

    @property
    def videos(self) -> list[StoredVideo]:
        """The videos in `shards`, in order."""

    @property
    def shards(self) -> list[Shard]:
        """Arrow files that still need their final names; see `genie.data.shards.seal`."""

    def take(self, picture: np.ndarray) -> np.ndarray:
        """Make the frame to store from a picture, uint8 (h, w, 3), as a new array."""

    def keep(self, name: str, episode: Episode) -> None:
        """Write an episode.

        Raises:
            UserError: if it cannot be written.
        """

    def finish(self) -> None:
        """Complete the files."""


class VideoKeeper:
    """Stores episodes as lossless videos of the games' own size."""

    def __init__(self, folder: Path, fps: float) -> None:
        """Args: fps: rate that the videos declare."""
        self.videos: list[StoredVideo] = []
        self.shards: list[Shard] = []
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
    """Stores episodes as rows of a prepared folder, each as a video of one scene."""

    def __init__(self, folder: Path, writer: str) -> None:
        """Args: writer: begins the file names; each process that writes here has its own."""
        self.videos: list[StoredVideo] = []
        self._resize = video.Resizer(SIZE)
        self._split, self._writer = folder.name, ShardWriter(folder, SIZE, writer)

    @property
    def shards(self) -> list[Shard]:
        """See `Keeper`."""
        return self._writer.shards

    def take(self, picture: np.ndarray) -> np.ndarray:
        """See `Keeper`."""
        return self._resize(picture)

    def keep(self, name: str, episode: Episode) -> None:
        """See `Keeper`."""
        rows = np.ascontiguousarray(np.stack(episode.frames).transpose(0, 3, 1, 2))
        with writing():
            self._writer.write(rows, np.arange(len(rows), dtype=np.int32))
        digest = hashlib.sha256(rows.data).hexdigest()[:32]
        self.videos.append(StoredVideo(f"{self._split}/{name}", [len(rows)], digest))

    def finish(self) -> None:
        """See `Keeper`."""
        with writing():
            self._writer.finish()
