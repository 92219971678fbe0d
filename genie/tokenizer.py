"""Video tokenizer: frames to discrete tokens and back.

In: frames in 0..1. Out: tokens, and frames again. Knows nothing of actions or sampling; two clips
with the same frames have the same tokens.

Source: Genie (Bruce et al. 2024, arXiv:2402.15391), section 2.1, ST-ViViT.
Differs: finite scalar quantization by default, a convolutional stem and head (cheaper and better
per minute than a linear patch embedding on a CPU), changed pixels weighted up in the loss.
"""

import copy
from dataclasses import dataclass, field
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from genie.codebook import Codebook, CodebookConfig
from genie.errors import UserError
from genie.metrics import Metrics, code_use, psnr
from genie.ring import FrameKeyValue, Past
from genie.st_transformer import STTransformer


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Shape of the tokenizer."""

    height: int = 64
    """Pixels; a multiple of patch_size."""
    width: int = 64
    """Pixels; a multiple of patch_size."""
    patch_size: int = 8
    """Side of the square of pixels under one token."""
    stem: Literal["conv", "linear"] = "conv"
    """conv: strided convolutions (patch_size a power of two, 4 or more). linear: the paper's."""
    dim: int = 128
    """Model width."""
    encoder_blocks: int = 2
    """ST-blocks before the codebook."""
    decoder_blocks: int = 3
    """ST-blocks after it; the paper found the decoder worth more."""
    num_heads: int = 4
    """Attention heads; dim must be a multiple of twice this."""
    window: int = 8
    """Frames that one frame attends to, itself included."""
    codebook: CodebookConfig = field(default_factory=CodebookConfig)
    """The discrete codes."""
    changed_weight: float = 4.0
    """Extra weight of pixels that differ from the frame before (the paper's loss: 0)."""
    absolute_weight: float = 0.1
    """Weight of the absolute error beside the squared one (the paper's loss: 0)."""

    def __post_init__(self) -> None:
        if min(self.patch_size, self.num_heads, self.window) < 1:
            raise UserError(
                f"patch_size is {self.patch_size}, num_heads is {self.num_heads}, "
                f"window is {self.window}: each must be 1 or more"
            )
        if self.stem == "conv" and (self.patch_size < 4 or self.patch_size & (self.patch_size - 1)):
            raise UserError(
                f"patch_size is {self.patch_size}: the conv stem needs 4, 8, 16, ...; "
                "choose one of them or stem='linear'"
            )
        if self.dim % (2 * self.num_heads):
            raise UserError(f"dim {self.dim} is not a multiple of 2 x num_heads {self.num_heads}")

    def check_size(self) -> None:
        """Refuse a frame size that is no multiple of patch_size; for when the size is final.

        Raises:
            UserError: naming the sides.
        """
        if self.height % self.patch_size or self.width % self.patch_size:
            raise UserError(
                f"frames of {self.height}x{self.width} cannot be cut into patches of "
                f"{self.patch_size}: choose sides that are multiples of it"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens in a frame."""
        return self.height // self.patch_size, self.width // self.patch_size

    @property
    def num_tokens(self) -> int:
        """Tokens in a frame."""
        return self.grid[0] * self.grid[1]

    @property
    def reach(self) -> int:
        """How many earlier frames can change a frame's tokens."""
        return self.encoder_blocks * (self.window - 1)


class Tokenizer(nn.Module):
    """ST-transformer VQ-VAE, causal in time."""

    def __init__(self, config: TokenizerConfig) -> None:
        """Args: config: see `TokenizerConfig`."""
        super().__init__()
        config.check_size()
        self.config = config
        stem, head = (_ConvStem, _ConvHead) if config.stem == "conv" else (_Patches, _Unpatches)
        self.stem = stem(config.patch_size, config.dim)
        self.encoder_position = nn.Parameter(0.02 * torch.randn(config.num_tokens, config.dim))
        self.encoder = self._transformer(config.encoder_blocks)
        self.codebook = Codebook(config.codebook, config.dim)
        self.decoder_position = nn.Parameter(0.02 * torch.randn(config.num_tokens, config.dim))
        self.decoder = self._transformer(config.decoder_blocks)
        self.head = head(config.patch_size, config.dim)

    def encode(self, frames: Float[Tensor, "b t 3 h w"]) -> Int[Tensor, "b t n"]:
        """Turn frames in 0..1 into token ids. Token t depends on frames 0..t only."""
        _, tokens, _ = self._quantize(frames)
        return tokens

    def decode(self, tokens: Int[Tensor, "b t n"]) -> Float[Tensor, "b t 3 h w"]:
        """Turn a whole clip's tokens into frames in 0..1. Frame t depends on tokens 0..t only."""
        return self._render(self.decoder(self._embed(tokens)))

    def forward(self, frames: Float[Tensor, "b t 3 h w"]) -> tuple[Float[Tensor, ""], Metrics]:
        """Training: reconstruction plus commitment loss, and the numbers worth logging."""
        codes, tokens, commitment = self._quantize(frames)
        reconstruction = self._render(self.decoder(codes + self.decoder_position))
        error = reconstruction.float() - frames
        weight = 1 + self.config.changed_weight * _changed(frames)
        error = error.square() + self.config.absolute_weight * error.abs()
        loss = (weight * error).sum() / weight.sum() + commitment
        metrics: Metrics = {"psnr": psnr(reconstruction.detach().float(), frames).mean()}
        return loss, metrics | code_use(tokens, self.codebook.size)

    def _quantize(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        b, t = frames.shape[:2]
        features = self.stem(rearrange(frames, "b t c h w -> (b t) c h w"))
        features = rearrange(features, "(b t) d h w -> b t (h w) d", b=b)
        if features.is_cuda:  # else all blocks would run on, and compile for, this layout
            features = features.contiguous()
        features = features + self.encoder_position
        latents = rearrange(self.encoder(features), "b t n d -> b (t n) d")
        codes, ids, commitment = self.codebook(latents)
        split = "b (t n) ... -> b t n ..."
        return rearrange(codes, split, t=t), rearrange(ids, split, t=t), commitment

    def _embed(self, tokens: Tensor) -> Tensor:
        codes = self.codebook.ids_to_codes(rearrange(tokens, "b t n -> b (t n)"))
        return rearrange(codes, "b (t n) d -> b t n d", t=tokens.shape[1]) + self.decoder_position

    def _render(self, features: Float[Tensor, "b t n d"]) -> Float[Tensor, "b t 3 h w"]:
        b, (rows, _) = features.shape[0], self.config.grid
        pixels = self.head(rearrange(features, "b t (h w) d -> (b t) d h w", h=rows))
        return rearrange(pixels, "(b t) c h w -> b t c h w", b=b)

    def _transformer(self, num_blocks: int) -> STTransformer:
        config = self.config
        return STTransformer(
            dim=config.dim,
            num_blocks=num_blocks,
            num_heads=config.num_heads,
            window=config.window,
        )


class FrameDecoder(nn.Module):
    """The decoding half of a tokenizer, for one frame at a time, as play needs it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Shares the tokenizer's weights."""
        super().__init__()
        self.tokenizer = tokenizer

    def forward(
        self, tokens: Int[Tensor, "b n"], past: Past
    ) -> tuple[Float[Tensor, "b 3 h w"], FrameKeyValue]:
        """The next frame's pixels in 0..1, and its keys and values; a pure function."""
        tokenizer, rows = self.tokenizer, self.tokenizer.config.grid[0]
        x = self.codes(tokens) + tokenizer.decoder_position
        features, newest = tokenizer.decoder.forward_next(x[:, None], past, wanted=1)
        pixels = tokenizer.head(rearrange(features[:, 0], "b (h w) d -> b d h w", h=rows))
        return pixels, newest

    def codes(self, tokens: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """The codes of tokens."""
        return self.tokenizer.codebook.ids_to_codes(tokens)


class QuickFrameDecoder(FrameDecoder):
    """`FrameDecoder` with a copy of the weights in another dtype, and a table of codes."""

    def __init__(self, tokenizer: Tokenizer, dtype: torch.dtype) -> None:
        """A copy of the weights as they are now. Args: dtype: to compute in."""
        ids = torch.arange(tokenizer.codebook.size, device=tokenizer.decoder_position.device)
        with torch.no_grad():
            codes = tokenizer.codebook.ids_to_codes(ids[None])[0]
        super().__init__(copy.deepcopy(tokenizer))
        del self.tokenizer.stem, self.tokenizer.encoder, self.tokenizer.encoder_position
        # Computing a code from its id takes a dozen operations.
        self.table = nn.Embedding.from_pretrained(codes)
        self.to(dtype).eval().requires_grad_(False)

    def codes(self, tokens: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """The codes of tokens, from the table."""
        return self.table(tokens)


class _ConvStem(nn.Sequential):
    """Pixels to patches: a 4x4 patchify, then halvings with a 3x3 convolution between."""

    def __init__(self, patch_size: int, dim: int) -> None:
        layers: list[nn.Module] = [nn.Conv2d(3, dim // 2, 4, stride=4)]
        side = 4
        while side < patch_size:
            layers += [
                nn.GELU(),
                nn.Conv2d(dim // 2, dim // 2, 3, padding=1),
                nn.GELU(),
                nn.Conv2d(dim // 2, dim // 2, 2, stride=2),
            ]
            side *= 2
        super().__init__(*layers, nn.GELU(), nn.Conv2d(dim // 2, dim, 1))


class _ConvHead(nn.Sequential):
    """Patches to pixels: doublings with a 3x3 convolution after each, then 4x4 pixel shuffle."""

    def __init__(self, patch_size: int, dim: int) -> None:
        layers: list[nn.Module] = [nn.Conv2d(dim, dim, 1), nn.GELU()]
        side = 4
        while side < patch_size:
            layers += [
                nn.Conv2d(dim, 4 * dim, 1),
                nn.PixelShuffle(2),
                nn.GELU(),
                nn.Conv2d(dim, dim, 3, padding=1),
                nn.GELU(),
            ]
            side *= 2
        super().__init__(*layers, nn.Conv2d(dim, 3 * 16, 1), nn.PixelShuffle(4), nn.Sigmoid())


class _Patches(nn.Conv2d):
    """The paper's linear patch embedding."""

    def __init__(self, patch_size: int, dim: int) -> None:
        super().__init__(3, dim, patch_size, stride=patch_size)


class _Unpatches(nn.Sequential):
    """The inverse of `_Patches`, with the sigmoid of appendix C.1."""

    def __init__(self, patch_size: int, dim: int) -> None:
        super().__init__(
            nn.Conv2d(dim, 3 * patch_size**2, 1), nn.PixelShuffle(patch_size), nn.Sigmoid()
        )


def _changed(frames: Float[Tensor, "b t 3 h w"]) -> Float[Tensor, "b t 1 h w"]:
    """1 where a pixel differs from the frame before by over 0.02, else 0, as in the first frame."""
    moved = (frames[:, 1:] - frames[:, :-1]).abs().amax(dim=2, keepdim=True) > 0.02
    return torch.cat([torch.zeros_like(moved[:, :1]), moved], dim=1).to(frames.dtype)
