"""Hands that play games: one presses buttons at random, one wanders, one also explores.

In: the pictures that games show. Out: a button combination for each game. Durations are given in
seconds of the game, so that hands play alike for any number of game steps per stored frame.
Knows no games.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

# Mean change of a picture (0..255) below which it stands still, and the seconds of standing still
# after which an explorer counts as stuck. Measured on hard levels: after four frames at 15 fps, 2 %
# of Ninja's pictures and 7 % of Jumper's are unchanged; with a wanderer, 16 % and 17 %.
STILL, STUCK_S = 1.0, 0.2
# Least and most seconds that one direction is kept. Measured in CoinRun, where levels start at the
# left wall: with longer travels, more of the leftward time is spent against that wall.
TRAVEL_S = (1.0, 3.0)
# Button combinations of a travel to the right and their probabilities; mirrored for the left.
HABITS = {
    ("RIGHT",): 0.40,
    ("RIGHT", "UP"): 0.26,
    (): 0.14,
    ("UP",): 0.05,
    ("LEFT",): 0.08,
    ("LEFT", "UP"): 0.04,
    ("DOWN",): 0.03,
}


@dataclass(frozen=True)
class Lengths:
    """Durations in stored frames; a pair is the least and the most of a random one."""

    hold: tuple[int, int]
    travel: tuple[int, int]
    stuck: int

    @classmethod
    def at(cls, fps: float, hold_s: tuple[float, float]) -> "Lengths":
        """Convert seconds to frames, at least one. Args: fps: stored frames per second of game."""

        def frames(seconds: float) -> int:
            return max(1, round(seconds * fps))

        return cls(
            hold=(frames(hold_s[0]), frames(hold_s[1])),
            travel=(frames(TRAVEL_S[0]), frames(TRAVEL_S[1])),
            stuck=frames(STUCK_S),
        )


class Player(Protocol):
    """Whoever chooses buttons."""

    def act(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Return the number of the button combination that each game is to hold, int (n).

        Args:
            pictures: what each game shows now, uint8 (h, w, 3).
        """

    def restart(self, started: np.ndarray) -> None:
        """Forget the games that have just been started anew. Args: started: bool (n)."""


class Presser:
    """Presses random buttons, each for a few frames. Randomness: `generator` only."""

    def __init__(
        self, num_combos: int, num_envs: int, lengths: Lengths, generator: np.random.Generator
    ) -> None:
        self.num_combos, self.lengths, self.generator = num_combos, lengths, generator
        self.actions = np.zeros(num_envs, dtype=np.int32)
        self.hold_left = np.zeros(num_envs, dtype=np.int64)

    def act(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Return the button combination of every game for the next stored frame.

        Args:
            pictures: what each game shows now, uint8 (h, w, 3); this hand ignores it.
        """
        chosen = self.choose()
        holds = self.generator.integers(*self.lengths.hold, len(chosen), endpoint=True)
        released = self.hold_left == 0
        self.actions = np.where(released, chosen, self.actions).astype(np.int32)
        self.hold_left = np.where(released, holds, self.hold_left) - 1
        return self.actions

    def restart(self, started: np.ndarray) -> None:
        """Does nothing: this hand does not mind where an episode begins."""

    def choose(self) -> np.ndarray:
        """Return what each game presses next if its present button is released now."""
        return self.generator.integers(self.num_combos, size=len(self.actions))


def random_player(
    num_combos: int, num_games: int, seed: int, hold: tuple[int, int] = (1, 1)
) -> Presser:
    """Presses buttons at random. Args: hold: least and most decisions that each is held for."""
    lengths = Lengths(hold=hold, travel=hold, stuck=1)
    return Presser(num_combos, num_games, lengths, np.random.default_rng(seed))


class Wanderer(Presser):
    """Plays like somebody exploring: moves in one direction for a while, jumps, pauses, turns.

    Travels go right and left in turn, so that both directions get a latent action, and last long
    enough to get somewhere; with uniformly random buttons the agent would stay near its start.
    Randomness: `generator` only.
    """

    def __init__(
        self,
        combos: Sequence[tuple[str, ...]],
        num_envs: int,
        lengths: Lengths,
        generator: np.random.Generator,
    ) -> None:
        super().__init__(len(combos), num_envs, lengths, generator)
        rightward = [combos.index(buttons) for buttons in HABITS]
        leftward = [combos.index(_mirrored(buttons)) for buttons in HABITS]
        self.choices = np.array([leftward, rightward])
        self.travels_right = np.arange(num_envs) % 2
        self.travel_left = generator.integers(1, lengths.travel[1], num_envs, endpoint=True)

    def choose(self) -> np.ndarray:
        """Continue the travel, or turn round at its end."""
        num_envs = len(self.actions)
        travels = self.generator.integers(*self.lengths.travel, num_envs, endpoint=True)
        habits = self.generator.choice(len(HABITS), num_envs, p=np.fromiter(HABITS.values(), float))
        arrived = self.travel_left == 0
        self.travels_right = self.travels_right ^ arrived
        self.travel_left = np.where(arrived, travels, self.travel_left) - 1
        return self.choices[self.travels_right, habits]


class Explorer(Wanderer):
    """Wanders, and presses something else when the picture has stood still for long.

    UP is released if held, since Ninja jumps only then and a held jump may hang under a ledge;
    otherwise it is pressed. Either way, the side is drawn again. Randomness: `generator` only.
    """

    def __init__(
        self,
        combos: Sequence[tuple[str, ...]],
        num_envs: int,
        lengths: Lengths,
        generator: np.random.Generator,
    ) -> None:
        super().__init__(combos, num_envs, lengths, generator)
        sides = "LEFT", "RIGHT"
        self.walks = np.array([combos.index((side,)) for side in sides])
        self.jumps = np.array([combos.index((side, "UP")) for side in sides])
        self.holds_up = np.array(["UP" in buttons for buttons in combos])
        self.seen: np.ndarray | None = None
        self.still_for = np.zeros(num_envs, dtype=np.int64)

    def act(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """See `Presser.act`; this hand looks at the pictures."""
        stuck = self._look(np.stack(pictures)) >= self.lengths.stuck
        self.still_for[stuck] = 0  # the new buttons get the same time to have an effect
        side = self.generator.integers(0, 2, len(stuck))
        otherwise = np.where(self.holds_up[self.actions], self.walks[side], self.jumps[side])
        self.actions = np.where(stuck, otherwise, self.actions).astype(np.int32)
        holds = self.generator.integers(*self.lengths.hold, len(stuck), endpoint=True)
        self.hold_left = np.where(stuck, holds, self.hold_left)
        return super().act(pictures)

    def _look(self, pictures: np.ndarray) -> np.ndarray:
        """Return for how many frames each picture has stood still."""
        if self.seen is not None:
            # The absolute difference in uint8: three times as fast as with signed integers.
            change = np.maximum(pictures, self.seen) - np.minimum(pictures, self.seen)
            change = change.reshape(len(change), -1).mean(axis=1)
            self.still_for = np.where(change < STILL, self.still_for + 1, 0)
        self.seen = pictures
        return self.still_for


HANDS = {"wander": Wanderer, "explore": Explorer}


def _mirrored(buttons: tuple[str, ...]) -> tuple[str, ...]:
    return tuple({"LEFT": "RIGHT", "RIGHT": "LEFT"}.get(button, button) for button in buttons)
