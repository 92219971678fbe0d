"""The action prior: which latent actions the recorded player is likely to take next.

In: the newest frames. Out: logits of the latent actions. Learnt from unlabelled video, too: its
targets are the actions that the latent action model infers.

A latent action tells how the picture moves, falls included, so that one that is held above the
ground would forbid to fall. With the prior, a key is a wish instead: an action is drawn that fits
both the wish and the picture, see `genie.session.Sessions.choose`.

Source: a behaviour prior as in offline reinforcement learning (Siegel et al. 2020,
arXiv:2002.08396), here for latent actions.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn

from genie.errors import UserError
from genie.metrics import Metrics
from genie.session import NUM_RECENT as NUM_FRAMES  # two tell a speed, three how it changes

STILL_SHARE = 0.1
DROPOUT = 0.2


@dataclass(frozen=True, kw_only=True)
class PriorConfig:
    """Shape of the action prior."""

    height: int = 64
    """Pixels."""
    width: int = 64
    """Pixels."""
    num_actions: int = 8
    """Latent actions; the latent action model's."""
    dim: int = 32
    """Width of the net."""

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 4:
            raise UserError(f"frames of {self.height}x{self.width} are too small: 4x4 is the least")
        if self.dim < 1:
            raise UserError(f"dim is {self.dim}: use 1 or more")


class ActionPrior(nn.Module):
    """A small convolutional classifier."""

    def __init__(self, config: PriorConfig) -> None:
        """Args: config: see `PriorConfig`."""
        super().__init__()
        self.config = config
        dim, grid = config.dim, [-(-(side // 4) // 4) for side in (config.height, config.width)]
        self.net = nn.Sequential(
            nn.Conv2d(3 * NUM_FRAMES, 2 * dim, 4, stride=4),
            nn.GELU(),
            nn.Conv2d(2 * dim, 3 * dim, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(3 * dim, 4 * dim, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Flatten(),
            nn.Dropout(DROPOUT),
            nn.Linear(4 * dim * grid[0] * grid[1], 4 * dim),
            nn.GELU(),
            nn.Linear(4 * dim, config.num_actions),
        )

    def logits(self, frames: Float[Tensor, "b t 3 h w"]) -> Float[Tensor, "b a"]:
        """Logits of the next action. Args: frames: `NUM_FRAMES` in 0..1, the newest last."""
        return self.net(rearrange(frames, "b t c h w -> b (t c) h w") - 0.5)

    def forward(
        self, frames: Float[Tensor, "b t 3 h w"], actions: Int[Tensor, "b t-1"]
    ) -> tuple[Float[Tensor, ""], Metrics]:
        """Training on the actions with `NUM_FRAMES` frames before them.

        Some windows are made to stand still, as at the start of a session from one picture. Uses
        the global random generator.

        Args:
            frames: 0..1.
            actions: action t leads from frame t to t+1.

        Returns:
            Cross-entropy in nats; the metrics `cross_entropy` and `accuracy`.
        """
        seen = frames[:, :-1].unfold(1, NUM_FRAMES, 1)
        seen = rearrange(seen, "b s c h w t -> (b s) t c h w")
        targets = rearrange(actions[:, NUM_FRAMES - 1 :], "b s -> (b s)")
        if self.training:
            stands = torch.rand(len(seen), 1, 1, 1, 1, device=seen.device) < STILL_SHARE
            seen = torch.where(stands, repeat(seen[:, -1], "b ... -> b t ...", t=NUM_FRAMES), seen)
        logits = self.logits(seen).float()
        entropy = F.cross_entropy(logits, targets)
        accuracy = (logits.argmax(dim=-1) == targets).float().mean()
        return entropy, {"cross_entropy": entropy.detach(), "accuracy": accuracy}
