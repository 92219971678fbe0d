"""The paper's latent action model: ST-transformers over a whole clip.

In: frames in 0..1. Out: actions, one per transition. Same interface as `LatentActionModel`, which
learns faster on every budget that we tried; the `paper` preset uses this one.

Source: Genie (Bruce et al. 2024, arXiv:2402.15391), section 2.1 and appendix C.1.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from genie.codebook import Codebook, CodebookConfig
from genie.errors import UserError
from genie.metrics import Metrics, code_use, decibels
from genie.st_transformer import STTransformer


@dataclass(frozen=True, kw_only=True)
class STLatentActionConfig:
    """Shape of the paper's latent action model."""

    height: int = 64
    """Pixels; a multiple of patch_size."""
    width: int = 64
    """Pixels; a multiple of patch_size."""
    num_actions: int = 6
    """How many actions there are."""
    patch_size: int = 16
    """Side of a patch in pixels; appendix F does not print it, the main model uses 16."""
    dim: int = 512
    """Model width."""
    num_blocks: int = 8
    """ST-blocks in the encoder, and as many in the decoder."""
    num_heads: int = 8
    """Attention heads."""
    window: int = 16
    """Frames that one frame attends to, itself included."""
    code_dim: int = 32
    """Width of an action's code."""
    reset_below: float = 0.5
    """A code used less often than this per batch, on average, is replaced."""

    def __post_init__(self) -> None:
        if min(self.patch_size, self.num_heads, self.num_blocks) < 1 or self.window < 2:
            raise UserError(
                f"patch_size is {self.patch_size}, num_heads is {self.num_heads}, num_blocks is "
                f"{self.num_blocks} (each must be 1 or more), window is {self.window} (2 or more)"
            )
        if self.dim % (2 * self.num_heads):
            raise UserError(f"dim {self.dim} is not a multiple of 2 x num_heads {self.num_heads}")
        if self.num_actions < 2:
            raise UserError(f"num_actions is {self.num_actions}: use 2 or more")
        if self.height % self.patch_size or self.width % self.patch_size:
            raise UserError(
                f"frames of {self.height}x{self.width} cannot be cut into patches of "
                f"{self.patch_size}: choose sides that are multiples of it"
            )

    @property
    def reach(self) -> int:
        """How many frames before frame t+1 can change action t."""
        return self.num_blocks * (self.window - 1)

    @property
    def shortest_clip(self) -> int:
        """Frames of the shortest clip with a transition to learn from."""
        return 2


class STLatentActionModel(nn.Module):
    """Causal encoder to codes, causal decoder from past frames and codes to the next frame."""

    def __init__(self, config: STLatentActionConfig) -> None:
        """Args: config: see `STLatentActionConfig`."""
        super().__init__()
        self.config = config
        self.encoder = _Half(config, out=config.dim)
        self.to_latent = nn.Linear(config.dim, config.code_dim)
        codes = CodebookConfig(
            kind="vq",
            num_codes=config.num_actions,
            code_dim=config.code_dim,
            reset_below=config.reset_below,
        )
        self.codebook = Codebook(codes, config.code_dim)
        self.from_code = nn.Linear(config.code_dim, config.dim)
        self.decoder = _Half(config, out=3 * config.patch_size**2)

    def infer(self, frames: Float[Tensor, "b t 3 h w"]) -> Int[Tensor, "b t-1"]:
        """The action between each two neighbouring frames; action t depends on frames 0..t+1."""
        return self._act(frames)[1]

    def features(self, frames: Float[Tensor, "b t 3 h w"]) -> Float[Tensor, "b t-1 f"]:
        """What the encoder sees in each transition; those of t depend on frames 0..t+1."""
        return self.encoder(frames)[:, 1:].mean(dim=2)

    def predict(
        self, frames: Float[Tensor, "b t 3 h w"], actions: Int[Tensor, "b t"]
    ) -> Float[Tensor, "b t 3 h w"]:
        """Frame t+1 in 0..1, as the model predicts it from frames 0..t and actions 0..t."""
        return self._render(frames, self.codebook.ids_to_codes(actions))

    def forward(self, frames: Float[Tensor, "b t 3 h w"]) -> tuple[Float[Tensor, ""], Metrics]:
        """Training: mean squared error of the next frames plus commitment loss.

        Metrics as of `LatentActionModel`; `delta_psnr` uses the global random generator.
        """
        codes, actions, commitment = self._act(frames)
        past, following = frames[:, :-1], frames[:, 1:]
        error = (self._render(past, codes) - following).square().mean()
        still = (past - following).square().mean()
        metrics: Metrics = {"psnr": decibels(error.detach()), "copy_psnr": decibels(still)}
        if not self.training:
            order = torch.randperm(actions.numel(), device=actions.device)
            shuffled = codes.flatten(0, 1)[order].unflatten(0, actions.shape)
            missed = (self._render(past, shuffled) - following).square().mean()
            metrics["delta_psnr"] = metrics["psnr"] - decibels(missed)
        return error + commitment, metrics | code_use(actions, self.config.num_actions)

    def _act(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.codebook(self.to_latent(self.features(frames)))

    def _render(self, past: Tensor, codes: Float[Tensor, "b t e"]) -> Tensor:
        patches = self.decoder(past, self.from_code(codes)[:, :, None])
        p, rows = self.config.patch_size, self.config.height // self.config.patch_size
        layout = "b t (r q) (c p1 p2) -> b t c (r p1) (q p2)"
        return rearrange(patches, layout, r=rows, p1=p, p2=p).float().sigmoid()


class _Half(nn.Module):
    """Patch embedding, ST-transformer, linear head."""

    def __init__(self, config: STLatentActionConfig, out: int) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        num_patches = config.height * config.width // config.patch_size**2
        self.embed = nn.Linear(3 * config.patch_size**2, config.dim)
        self.position = nn.Parameter(0.02 * torch.randn(num_patches, config.dim))
        self.transformer = STTransformer(
            dim=config.dim,
            num_blocks=config.num_blocks,
            num_heads=config.num_heads,
            window=config.window,
        )
        self.head = nn.Linear(config.dim, out)

    def forward(self, frames: Tensor, added: Tensor | None = None) -> Tensor:
        layout = "b t c (r p1) (q p2) -> b t (r q) (c p1 p2)"
        patches = rearrange(frames, layout, p1=self.patch_size, p2=self.patch_size)
        x = self.embed(patches) + self.position
        return self.head(self.transformer(x if added is None else x + added))
