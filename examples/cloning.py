"""Behavioural cloning: a net that does in each picture what was done there in videos.

In: frames and, for each, what was done. Out: a net, and a player that acts by it. Knows no worlds.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from mapping import Dictionary, draw
from sight import SHAPE, Sight
from torch import Tensor, nn
from tqdm import tqdm

from genie.data.clips import FrameStore

BATCH, LEARNING_RATE, WEIGHT_DECAY = 256, 1e-3, 1e-2
FEATURES = 512


class Demonstrations:
    """Frames of videos, each with the one before it."""

    def __init__(self, store: FrameStore) -> None:
        """Read all frames into memory."""
        self.frames = store.read(0, len(store))
        rows = torch.arange(len(store))
        is_first = torch.isin(rows, torch.from_numpy(np.asarray(store.scene_starts)))
        self._before = torch.where(is_first, rows, rows - 1)

    def seen(self, rows: Int[Tensor, " b"]) -> UInt8[Tensor, "b 6 h w"]:
        """What `Sight` would show a player there."""
        return torch.cat([self.frames[self._before[rows]], self.frames[rows]], dim=1)


class Clone(nn.Module):
    """Pictures to logits. Source: the net of Mnih et al. 2015."""

    def __init__(self, num_choices: int, channels: int) -> None:
        """Args: channels: of the pictures."""
        super().__init__()
        height, width = SHAPE[1:]
        convolutions = nn.Sequential(
            nn.Conv2d(channels, 32, 8, stride=4),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, stride=2),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3),
            nn.ReLU(),
            nn.Flatten(),
        )
        width = convolutions(torch.zeros(1, channels, height, width)).shape[1]
        self.body = nn.Sequential(convolutions, nn.Linear(width, FEATURES), nn.ReLU())
        self.out = nn.Linear(FEATURES, num_choices)

    def forward(self, seen: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Logits of the choices."""
        return self.out(self.body(seen.float() / 255))


def fit(
    seen: Callable[[Int[Tensor, " b"]], UInt8[Tensor, "b c h w"]],
    rows: Int[Tensor, " n"],
    targets: Int[Tensor, " n"],
    num_choices: int,
    *,
    steps: int,
    seed: int,
    name: str,
) -> Clone:
    """Train a clone by cross-entropy.

    Args:
        seen: the pictures of frames, such as `Demonstrations.seen`.
        rows: of the frames to learn from.
        targets: what was done in each.
        seed: of weights and batches.
        name: for the progress bar.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        clone = Clone(num_choices, seen(rows[:1]).shape[1])
        optimizer = torch.optim.AdamW(
            clone.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY
        )
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=steps)
        bar = tqdm(range(steps), desc=name, leave=False)
        for _ in bar:
            drawn = torch.randint(len(rows), (min(BATCH, len(rows)),))
            loss = F.cross_entropy(clone(seen(rows[drawn])), targets[drawn])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.set_postfix(loss=f"{loss.item():.3f}")
    return clone.eval()


class ClonePlayer:
    """Plays as a clone: draws a latent action, then buttons that it stands for."""

    def __init__(self, clone: Clone, mapping: Dictionary | None, num_games: int, seed: int) -> None:
        """Args: mapping: None if what the clone chooses are buttons. seed: of the draws."""
        self._clone, self._mapping = clone, mapping
        self._sight, self._generator = Sight(num_games), np.random.default_rng(seed)

    def restart(self, started: np.ndarray) -> None:
        """See `Player`."""
        self._sight.forget(started)

    @torch.inference_mode()
    def act(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """See `Player`."""
        logits = self._clone(torch.from_numpy(self._sight.look(pictures)))
        chosen = draw(logits.double().softmax(dim=1).numpy(), self._generator)
        return chosen if self._mapping is None else self._mapping.draw(chosen, self._generator)
