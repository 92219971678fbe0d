"""Latent action model: which of a few discrete actions led from one frame to the next.

In: frames in 0..1. Out: actions, one per transition. Works on pixels; knows nothing of tokens.
Training reconstructs the next frame from the past frames and the action alone, so that the action
comes to mean what the past does not show.

Source: Genie (Bruce et al. 2024, arXiv:2402.15391), section 2.1; the convolutional inverse and
forward models follow LAPO (Schmidt & Jiang 2024, arXiv:2312.10812).
Differs: each transition's loss is divided by its copy-last-frame loss (else rare large motions, as
of a jump, take all the codes); the inverse model is given the change rather than the next frame;
and some transitions skip the codebook in training, so that gradients reach the inverse model from
the first step, when codes mean nothing yet.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from genie.codebook import Codebook, CodebookConfig
from genie.errors import UserError
from genie.metrics import Metrics, code_use, decibels

# Below this mean squared error two frames count as equal; it keeps the normalised loss finite.
STILL = 1e-3
# Scales up the change between two frames: an action shows in it, but it is small.
CHANGE_GAIN = 4.0


@dataclass(frozen=True, kw_only=True)
class LatentActionConfig:
    """Shape of the latent action model."""

    height: int = 64
    """Pixels."""
    width: int = 64
    """Pixels."""
    num_actions: int = 8
    """How many actions there are."""
    history: int = 2
    """Past frames given besides the next one; 2 show velocity, so that a fall needs no code."""
    dim: int = 32
    """Channels at the finest grid; coarser grids have twice and four times as many."""
    code_dim: int = 8
    """Width of an action's code."""
    reset_below: float = 0.5
    """A code used less often than this per batch, on average, is replaced."""
    continuous_share: float = 0.25
    """Share of the training transitions that skip the codebook."""

    def __post_init__(self) -> None:
        if self.num_actions < 2 or self.history < 1:
            raise UserError(
                f"num_actions is {self.num_actions} (2 or more is needed), "
                f"history is {self.history} (1 or more is needed)"
            )
        if not 0 <= self.continuous_share <= 1:
            raise UserError(f"continuous_share is {self.continuous_share}: use 0 to 1")

    @property
    def reach(self) -> int:
        """How many frames before frame t+1 can change action t."""
        return self.history

    @property
    def shortest_clip(self) -> int:
        """Frames of the shortest clip with a transition to learn from."""
        return self.history + 1


class LatentActionModel(nn.Module):
    """Inverse model (frames to action) and forward model (past frames and action to frame)."""

    def __init__(self, config: LatentActionConfig) -> None:
        """Args: config: see `LatentActionConfig`."""
        super().__init__()
        self.config = config
        grid = -(-config.height // 16), -(-config.width // 16)
        self.inverse = _InverseModel(config.history + 1, config.dim, config.code_dim, grid)
        self.codebook = Codebook(
            CodebookConfig(
                kind="vq",
                num_codes=config.num_actions,
                code_dim=config.code_dim,
                reset_below=config.reset_below,
            ),
            config.code_dim,
        )
        self.forward_model = _ForwardModel(config.history, config.dim, config.code_dim)

    def infer(self, frames: Float[Tensor, "b t 3 h w"]) -> Int[Tensor, "b t-1"]:
        """The action between each two neighbouring frames; action t leads from frame t to t+1.

        Action t depends on frames t-history+1..t+1; before the clip's start, the first frame is
        repeated.
        """
        if frames.shape[1] < 2:
            return torch.zeros(len(frames), 0, dtype=torch.long, device=frames.device)
        past, following = self._transitions(frames)
        _, actions, _ = self._act(past, following)
        return rearrange(actions, "(b t) 1 -> b t", b=frames.shape[0])

    def features(self, frames: Float[Tensor, "b t 3 h w"]) -> Float[Tensor, "b t-1 f"]:
        """What the inverse model sees in each transition, of which actions keep three bits or so.

        Those of transition t depend on the same frames as action t.
        """
        if frames.shape[1] < 2:
            return frames.new_zeros(len(frames), 0, 4 * self.config.dim)
        past, following = self._transitions(frames)
        seen = self.inverse.features(_with_change(past, following))
        return rearrange(seen, "(b t) f -> b t f", b=frames.shape[0])

    def predict(
        self, frames: Float[Tensor, "b t 3 h w"], actions: Int[Tensor, "b t"]
    ) -> Float[Tensor, "b t 3 h w"]:
        """Frame t+1 as the model predicts it; values may leave 0..1.

        Depends on frames t-history+1..t and action t only.
        """
        past = self._past(frames, first=0)
        codes = self.codebook.ids_to_codes(rearrange(actions, "b t -> (b t) 1"))[:, 0]
        predicted = self._inside(self.forward_model(past, codes))
        return rearrange(predicted, "(b t) c h w -> b t c h w", b=frames.shape[0])

    def forward(self, frames: Float[Tensor, "b t 3 h w"]) -> tuple[Float[Tensor, ""], Metrics]:
        """Training on the transitions whose whole history is in the clip.

        Needs t > history. Metrics: PSNR of the prediction and of copying the last frame, usage and
        perplexity; in evaluation mode also `delta_psnr`, the PSNR with the inferred minus that with
        shuffled actions: the paper's controllability measure applied to this model's own decoder.
        If near 0, actions are ignored. Uses the global random generator.
        """
        past, following = self._transitions(frames, first=self.config.history - 1)
        codes, actions, commitment = self._act(past, following)
        error = self._error(self.forward_model(past, codes), following)
        still = self._error(past[:, -3:], following)
        loss = (error / (still + STILL)).mean() + commitment
        metrics: Metrics = {
            "psnr": decibels(error.detach().mean()),
            "copy_psnr": decibels(still.mean()),
        }
        if not self.training:
            shuffled = codes[torch.randperm(len(codes), device=codes.device)]
            missed = self._error(self.forward_model(past, shuffled), following)
            metrics["delta_psnr"] = metrics["psnr"] - decibels(missed.mean())
        return loss, metrics | code_use(actions, self.config.num_actions)

    def _act(self, past: Tensor, following: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        latents = self.inverse(_with_change(past, following))
        codes, actions, commitment = self.codebook(latents[:, None])
        codes = codes[:, 0]
        if self.training:
            skips = torch.rand_like(codes[:, :1]) < self.config.continuous_share
            codes = torch.where(skips, F.normalize(latents, dim=1), codes)
        return codes, actions, commitment

    def _error(self, predicted: Tensor, target: Tensor) -> Float[Tensor, " b"]:
        """Mean squared error of each picture, without the margin."""
        return (self._inside(predicted) - self._inside(target)).square().mean(dim=(1, 2, 3))

    def _inside(self, pictures: Tensor) -> Tensor:
        return pictures[..., : self.config.height, : self.config.width]

    def _transitions(self, frames: Tensor, first: int = 0) -> tuple[Tensor, Tensor]:
        """Past (frames as channels, newest last) and next frame of transitions first..t-2.

        Both have a margin that makes their sides multiples of 16.
        """
        following = _with_margin(frames[:, first + 1 :].flatten(0, 1))
        return self._past(frames[:, :-1], first), following

    def _past(self, frames: Float[Tensor, "b t 3 h w"], first: int) -> Float[Tensor, "_ c H W"]:
        """For each frame from `first` on: its `history` last frames, itself last, as channels.

        Batch and time are merged into the first axis.
        """
        history = self.config.history
        padded = torch.cat([frames[:, :1].expand(-1, history, -1, -1, -1), frames], dim=1)
        shown = [padded[:, 1 + k + first : 1 + k + frames.shape[1]] for k in range(history)]
        return _with_margin(torch.cat(shown, dim=2).flatten(0, 1))


class _InverseModel(nn.Module):
    compiled_methods = ("forward",)

    def __init__(self, num_frames: int, dim: int, code_dim: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(num_frames * 12, dim, 3, padding=1)
        self.down = nn.ModuleList(
            nn.Conv2d(dim * min(4, 2**k), dim * min(4, 2 ** (k + 1)), 3, stride=2, padding=1)
            for k in range(3)
        )
        self.refine = nn.ModuleList(
            nn.Conv2d(dim * min(4, 2 ** (k + 1)), dim * min(4, 2 ** (k + 1)), 3, padding=1)
            for k in range(3)
        )
        self.out = nn.Sequential(
            nn.Flatten(),
            nn.Linear(dim * 4 * grid[0] * grid[1], 4 * dim),
            nn.GELU(),
            nn.Linear(4 * dim, code_dim),
        )

    def forward(self, frames: Float[Tensor, "b c h w"]) -> Float[Tensor, "b e"]:
        return self.out[-1](self.features(frames))

    def features(self, frames: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        x = self.stem(_channels_last(F.pixel_unshuffle(frames, 2)))
        for down, refine in zip(self.down, self.refine, strict=True):
            x = down(F.gelu(x))
            x = x + refine(F.gelu(x))
        x = F.gelu(x)
        for layer in list(self.out)[:-1]:
            x = layer(x)
        return x


class _ForwardModel(nn.Module):
    """U-Net with the action's code modulating each level (FiLM, Perez et al. 2018)."""

    compiled_methods = ("forward",)

    def __init__(self, num_past: int, dim: int, code_dim: int) -> None:
        super().__init__()
        widths = [dim, 2 * dim, 4 * dim]
        self.stem = nn.Conv2d(num_past * 12, dim, 3, padding=1)
        self.down = nn.ModuleList(
            nn.Conv2d(widths[k], widths[k + 1], 3, stride=2, padding=1) for k in range(2)
        )
        self.bottom = nn.ModuleList(nn.Conv2d(4 * dim, 4 * dim, 3, padding=1) for _ in range(3))
        self.up = nn.ModuleList(
            nn.Conv2d(widths[k + 1], 4 * widths[k], 1) for k in reversed(range(2))
        )
        self.merge = nn.ModuleList(
            nn.Conv2d(2 * widths[k], widths[k], 3, padding=1) for k in reversed(range(2))
        )
        self.out = nn.Conv2d(dim, 4 * 3, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        modulated = [4 * dim] * 3 + [widths[1], widths[0]]
        self.film = nn.ModuleList(nn.Linear(code_dim, 2 * width) for width in modulated)

    def forward(
        self, past: Float[Tensor, "b c h w"], codes: Float[Tensor, "b e"]
    ) -> Float[Tensor, "b 3 h w"]:
        x = F.gelu(self.stem(_channels_last(F.pixel_unshuffle(past, 2))))
        skips = []
        for down in self.down:
            skips.append(x)
            x = F.gelu(down(x))
        film = iter(self.film)
        for bottom in self.bottom:
            x = x + bottom(F.gelu(_modulate(x, next(film)(codes))))
        for up, merge in zip(self.up, self.merge, strict=True):
            x = torch.cat([F.pixel_shuffle(up(x), 2), skips.pop()], dim=1)
            x = F.gelu(_modulate(merge(x), next(film)(codes)))
        return past[:, -3:] + F.pixel_shuffle(self.out(x), 2).float()


def _with_change(past: Float[Tensor, "b c h w"], following: Float[Tensor, "b 3 h w"]) -> Tensor:
    """Past frames and how the next one differs from the last of them, as channels."""
    return torch.cat([past, CHANGE_GAIN * (following - past[:, -3:])], dim=1)


def _with_margin(pictures: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c H W"]:
    """The last row and column repeated below and on the right, up to multiples of 16."""
    below, right = (-side % 16 for side in pictures.shape[-2:])
    return F.pad(pictures, (0, right, 0, below), mode="replicate") if below or right else pictures


def _modulate(x: Tensor, film: Tensor) -> Tensor:
    scale, offset = film[..., None, None].chunk(2, dim=1)
    return x * (1 + scale) + offset


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
