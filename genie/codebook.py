"""One interface to vector-quantize-pytorch's codebooks: quantise latents, turn ids into codes.

In: latents. Out: codes, ids and a loss. Knows nothing of transformers or pixels.

Source: VQ (van den Oord et al. 2017, arXiv:1711.00937) with exponential moving averages, and
finite scalar quantization (Mentzer et al. 2023, arXiv:2309.15505).
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from vector_quantize_pytorch import FSQ, VectorQuantize
from vector_quantize_pytorch.vector_quantize_pytorch import Codebook as LibraryCodebook

from genie.errors import UserError

LARGEST_FACTOR = 1024
"""Largest number of values of a digit: logits of many more would cost more than all blocks."""


@dataclass(frozen=True, kw_only=True)
class CodebookConfig:
    """Kind and size of a codebook."""

    kind: Literal["fsq", "vq"] = "fsq"
    """fsq: a fixed grid, nothing can collapse. vq: learnt vectors with dead-code reset."""
    levels: tuple[int, ...] = (8, 5, 5, 5)
    """Values per axis of the grid (fsq only); their product is the codebook's size."""
    num_codes: int = 1024
    """Number of learnt vectors (vq only)."""
    code_dim: int = 16
    """Width of a learnt vector (vq only)."""
    reset_below: float = 0.5
    """A vector used less often than this per batch, on average, is replaced (vq only)."""

    def __post_init__(self) -> None:
        if self.kind == "fsq" and (not self.levels or min(self.levels) < 2):
            raise UserError(f"levels is {self.levels}: every axis needs at least 2 values")
        if self.kind == "vq" and (self.num_codes < 2 or self.code_dim < 1):
            raise UserError(
                f"num_codes is {self.num_codes} (2 or more is needed), "
                f"code_dim is {self.code_dim} (1 or more is needed)"
            )

    @property
    def size(self) -> int:
        """Number of codes."""
        return math.prod(self.levels) if self.kind == "fsq" else self.num_codes

    @property
    def factors(self) -> tuple[int, ...]:
        """Numbers of values of an id's digits, the fastest first; () if the id is one digit.

        Axes of a large grid are divided among digits, so that nets can predict each digit alone, as
        Open-MAGVIT2 does (Luo et al. 2024, arXiv:2409.04410, section 3.2).
        """
        factors = [1]
        for level in self.levels if self.kind == "fsq" else ():
            if factors[-1] == 1 or factors[-1] * level <= LARGEST_FACTOR:
                factors[-1] *= level
            else:
                factors.append(level)
        return tuple(factors) if len(factors) > 1 else ()


class Codebook(nn.Module):
    """Quantises `dim`-wide latents; codes come back at the same width."""

    quantizer: FSQ | VectorQuantize

    def __init__(self, config: CodebookConfig, dim: int) -> None:
        """Args: config: see `CodebookConfig`. dim: width of latents and returned codes."""
        super().__init__()
        self.size = config.size
        if config.kind == "fsq":
            self.quantizer = FSQ(levels=list(config.levels), dim=dim)
            self.quantizer.add_module("project_in", _Centred(dim, len(config.levels)))
        else:
            self.quantizer = VectorQuantize(
                dim=dim,
                codebook_size=config.num_codes,
                codebook_dim=config.code_dim,
                use_cosine_sim=True,
                decay=0.95,
                commitment_weight=0.25,
                threshold_ema_dead_code=config.reset_below,
            )
            self.quantizer._codebook.__class__ = _LearntCodes

    def forward(
        self, latents: Float[Tensor, "b n d"]
    ) -> tuple[Float[Tensor, "b n d"], Int[Tensor, "b n"], Float[Tensor, ""]]:
        """Codes (straight-through gradient), their ids, and the commitment loss (0 for fsq)."""
        result = self.quantizer(latents.float())
        loss = result[2].sum() if len(result) > 2 else latents.new_zeros(())
        # NaNs of a diverged net give invalid ids: clamp, so that its loss is reported, not a crash.
        ids = result[1].long().clamp(0, self.size - 1)
        return result[0].to(latents.dtype), ids, loss.float()

    def ids_to_codes(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """The code of each id, as `forward` gives it."""
        if isinstance(self.quantizer, FSQ):
            return self.quantizer.indices_to_codes(ids)
        return self.quantizer.get_output_from_indices(ids)


class _LearntCodes(LibraryCodebook):
    """The library's learnt codes without two checks per step that make the host wait for the GPU.

    They are: whether the codes are initialised, as ours always are, and whether any code is dead.
    """

    cluster_size: Tensor
    embed: Tensor
    embed_avg: Tensor
    threshold_ema_dead_code: float
    reset_cluster_size: float

    def init_embed_(self, data: Tensor, mask: None = None) -> None:
        """Does nothing: the codes are initialised from the start."""

    @torch.no_grad()
    def expire_codes_(self, batch_samples: Float[Tensor, "1 b e"], seq_mask: None = None) -> None:
        """Replace each code that is used too rarely by a different latent of the batch."""
        if not self.training:
            return
        dead = self.cluster_size < self.threshold_ema_dead_code
        num_samples, num_codes = batch_samples.shape[1], dead.shape[1]
        draws = torch.rand(num_samples, device=dead.device).topk(min(num_samples, num_codes))
        rank = dead.cumsum(dim=1) - 1
        dead &= rank < num_samples  # if latents run out, the rest wait for a later batch
        drawn = batch_samples[:, draws.indices[rank[0].clamp(0, num_samples - 1)]]
        size = self.reset_cluster_size
        self.embed.copy_(torch.where(dead[..., None], drawn, self.embed))
        self.embed_avg.copy_(torch.where(dead[..., None], size * drawn, self.embed_avg))
        self.cluster_size.masked_fill_(dead, size)


class _Centred(nn.Module):
    """Linear projection whose outputs have mean 0 and variance 1 over the batch.

    The grid's cells lie around 0: latents that share an offset, as a transformer's do, would all
    fall into a few cells and stay there.
    """

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim_in, dim_out)
        # The offset drifts fast while the learning rate is high; slow averages would lag behind.
        self.centre = nn.BatchNorm1d(dim_out, affine=False, momentum=0.3)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n e"]:
        projected = self.linear(x).float()
        return self.centre(projected.flatten(0, 1)).unflatten(0, x.shape[:2])
