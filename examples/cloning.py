"""Behavioural cloning: a net that does in each picture what was done there in videos.

In: frames and, for each, what was done. Out: a net. Knows no worlds and plays nothing.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from sight import SHAPE
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

    @torch.inference_mode()
    def shares(self, seen: UInt8[np.ndarray, "b c h w"]) -> Float[np.ndarray, "b k"]:
        """Probabilities of the choices."""
        return self(torch.from_numpy(seen)).double().softmax(dim=1).numpy()


def fit(
    seen: Callable[[Int[Tensor, " b"]], UInt8[Tensor, "b c h w"]],
    rows: Int[Tensor, " n"],
    targets: Int[Tensor, " n"] | Float[Tensor, "n k"],
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
        targets: what was done in each, or the probabilities of what was.
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
