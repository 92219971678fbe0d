"""The real game in which players learn and are scored, the latter on levels of their own.

In: what the game is called, or a recording of it, and a player. Out: the return of each episode
played. Learns nothing.
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from games import Games, is_procgen, open_games
from players import Player

from genie.errors import UserError

# Those of recordings and of training begin at 0 and at 1,000,000.
FIRST_LEVEL, NUM_LEVELS = 2_000_000, 1_000_000
LEVELS_A_SEED = 10_000  # of Gymnasium's games, which take levels in order; Procgen draws them


@dataclass(frozen=True, kw_only=True)
class Arena:
    """One game, at one difficulty."""

    game: str
    """See `RecordingConfig`, likewise the others."""
    distribution: Literal["easy", "hard"] = "easy"
    plain: bool = False
    frame_skip: int = 2

    def __post_init__(self) -> None:
        """Reject what cannot be played."""
        if not isinstance(self.frame_skip, int) or not 1 <= self.frame_skip <= 16:
            raise UserError(f"the frame skip is {self.frame_skip}: give 1 to 16")
        if self.distribution not in {"easy", "hard"} or not isinstance(self.plain, bool):
            raise UserError(f"there is no difficulty {self.distribution!r}: give easy or hard")
        if not is_procgen(self.game) and (self.plain or self.distribution != "easy"):
            raise UserError(
                f"--distribution and --plain are for Procgen: {self.game} has neither of them"
            )

    @classmethod
    def of(cls, recording: Path) -> "Arena":
        """The game of a recording. Args: recording: the folder.

        Raises:
            UserError: if the folder holds no recording, or one of something else.
        """
        options = read_recording(recording)
        try:
            return cls(**{name: options[name] for name in cls.__dataclass_fields__})
        except KeyError as error:
            raise _no_recording(recording) from error

    @contextlib.contextmanager
    def open(
        self, num_games: int, seed: int, levels: tuple[int, int] = (FIRST_LEVEL, NUM_LEVELS)
    ) -> Iterator[Games]:
        """Games side by side. Args: levels: the first level, and how many.

        Raises:
            UserError: if there is no such game, or it is not installed.
        """
        first, count = levels
        skipped = 0 if is_procgen(self.game) else seed * LEVELS_A_SEED % count
        games = open_games(
            self.game,
            num_envs=num_games,
            first_level=first + skipped,
            num_levels=count - skipped,
            seed=seed,
            distribution=self.distribution,
            plain=self.plain,
        )
        with contextlib.closing(games):
            yield games

    def returns(self, games: Games, player: Player, per_game: int) -> np.ndarray:
        """Play the first `per_game` episodes of each game; what each episode earned, float (n).

        The same number in every game: those that end early would be overrepresented otherwise.
        """
        num_games = len(games.levels)
        earned, finished = np.zeros(num_games), [[] for _ in range(num_games)]
        while min(map(len, finished)) < per_game:
            over = games.advance(player.act(games.pictures), self.frame_skip)
            player.restart(over)
            earned += games.rewards
            for index in np.flatnonzero(over):
                finished[index].append(earned[index])
            earned[over] = 0
        return np.concatenate([own[:per_game] for own in finished])


def read_recording(folder: Path) -> dict[str, Any]:
    """The content of a recording's description.

    Raises:
        UserError: if the folder holds no recording.
    """
    try:
        options = json.loads((folder / "recording.json").read_text())
    except (OSError, ValueError) as error:
        raise _no_recording(folder) from error
    if not isinstance(options, dict):
        raise _no_recording(folder)
    return options


def _no_recording(folder: Path) -> UserError:
    return UserError(f"{folder} holds no recording: make one with examples/record_game.py")
