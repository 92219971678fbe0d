"""A judge that tells from a picture whether an episode ends and what it pays, learnt from a few.

In: episodes of a real game. Out: a `Judge` for environments made of worlds, which know neither
rewards nor ends. Trains no player.
"""

from dataclasses import dataclass

import numpy as np
import torch
from arena import Arena
from cloning import Clone, fit
from jaxtyping import Bool, Float, Int, UInt8
from mapping import draw
from players import Player
from sight import SIZE
from torch import Tensor

from genie.env import Pictures
from genie.video import Resizer

GOES_ON, PAYS, ENDS, PAYS_AND_ENDS = range(4)


@dataclass(frozen=True)
class Episodes:
    """Transitions of whole episodes, one after the other."""

    pictures: UInt8[Tensor, "n 3 h w"]
    """Before each transition."""
    buttons: Int[np.ndarray, " n"]
    """What was held in it."""
    rewards: Float[np.ndarray, " n"]
    """What it paid."""
    ends: Bool[np.ndarray, " n"]
    """Whether the episode ended in it."""

    @property
    def starts(self) -> Int[np.ndarray, " episodes+1"]:
        """Where each episode begins; then the number of transitions."""
        return np.concatenate([[0], np.flatnonzero(self.ends) + 1])

    @property
    def kinds(self) -> Int[np.ndarray, " n"]:
        """What happens in each transition."""
        return self.ends * ENDS + (self.rewards != 0) * PAYS


def collect(arena: Arena, player: Player, num_games: int, per_game: int, seed: int) -> Episodes:
    """Play the first `per_game` episodes of each game on its training levels."""
    resize = Resizer(SIZE)
    running: list[list] = [[] for _ in range(num_games)]
    finished: list[list[list]] = [[] for _ in range(num_games)]
    with arena.open(num_games, seed, levels=(0, 100_000)) as games:
        while min(map(len, finished)) < per_game:
            pictures = [resize(picture) for picture in games.pictures]
            buttons = player.act(games.pictures)
            over = games.advance(buttons, arena.frame_skip)
            player.restart(over)
            for index, episode in enumerate(running):
                step = pictures[index], buttons[index], games.rewards[index], over[index]
                episode.append(step)
                if over[index]:
                    finished[index].append(episode)
                    running[index] = []
    steps = [step for own in finished for episode in own[:per_game] for step in episode]
    pictures, buttons, rewards, ends = map(np.stack, zip(*steps, strict=True))
    return Episodes(torch.from_numpy(pictures).permute(0, 3, 1, 2), buttons, rewards, ends)


class LearntJudge:
    """Draws what happens from the probabilities that a net gives for the picture before.

    The picture after does not count: real games do not show the one after the end.
    """

    def __init__(self, episodes: Episodes, *, steps: int, seed: int) -> None:
        """Learn from labelled episodes. Args: steps: of the training."""
        kinds = episodes.kinds
        self._pays = np.array(
            [
                episodes.rewards[kinds == kind].mean() if (kinds == kind).any() else 0
                for kind in range(4)
            ]
        )
        self._net: Clone = fit(
            lambda rows: episodes.pictures[rows],
            torch.arange(len(kinds)),
            torch.from_numpy(kinds),
            num_choices=4,
            steps=steps,
            seed=seed,
            name="judge",
        )
        self._generator = np.random.default_rng(seed)

    def shares(self, pictures: Pictures) -> Float[np.ndarray, "b 4"]:
        """Probabilities of what happens after pictures."""
        return self._net.shares(pictures.transpose(0, 3, 1, 2))

    def __call__(
        self, before: Pictures, actions: Int[np.ndarray, " b"], after: Pictures
    ) -> tuple[Float[np.ndarray, " b"], Bool[np.ndarray, " b"]]:
        """See `genie.env.Judge`."""
        happens = draw(self.shares(before), self._generator)
        return self._pays[happens], happens >= ENDS
