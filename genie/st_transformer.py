"""ST-transformer: attention within a frame, then causal attention across frames, then one FFN.

In and out: Float[Tensor, "b t n d"]. A frame never sees the future, and sees the `window - 1`
frames before it. Knows nothing of video, actions or codebooks.

Source: Genie (Bruce et al. 2024, arXiv:2402.15391), section 2, figure 4.
Differs: rotary time positions (Su et al. 2021, arXiv:2104.09864) instead of absolute ones, so that
keys and values of past frames stay valid while the window slides; RMS norms; QK-norm throughout.
"""

import itertools
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from genie import ring
from genie.ring import FrameKeyValue, Past, Ring

# cuDNN's attention makes a new plan for every clip length, which costs more than it saves here;
# PyTorch's two other fused kernels need none.
torch.backends.cuda.enable_cudnn_sdp(False)

EPSILON = 1e-6  # of the norms
MOST_ENTRIES = 65_535  # largest batch of the fused kernels, an axis of CUDA's grid

KeyValue = tuple[Float[Tensor, "b n k t e"], Float[Tensor, "b n k t e"]]
SeenKeyValue = tuple[Float[Tensor, "b n k s e"], Float[Tensor, "b n k s e"]]
PastKeyValue = tuple[Float[Tensor, "b n k p e"], Float[Tensor, "b n k p e"]]
Rotation = tuple[Tensor, Tensor]  # cosines and signed sines, broadcast against "b n k t e"


class STTransformer(nn.Module):
    """A stack of ST-blocks. Work per frame is the same for any length of history."""

    def __init__(self, *, dim: int, num_blocks: int, num_heads: int, window: int) -> None:
        """Args: window: frames that one frame attends to, itself included."""
        super().__init__()
        self.window = window
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        blocks = nn.ModuleList(STBlock(dim, num_heads) for _ in range(num_blocks))
        self.blocks = cast("Sequence[STBlock]", blocks)  # ModuleList has no item type
        self.norm = RMSNorm(dim)

    def forward(self, x: Float[Tensor, "b t n d"]) -> Float[Tensor, "b t n d"]:
        """A whole clip at once."""
        x = _as_computed(x)
        rotation, bias = _clip_tables(x.shape[1], self.window, self.head_dim, False, x)
        for block in self.blocks:
            x, q, key_value = block.within_frame(x, rotation)
            x = block.across_frames(x, q, key_value, bias)
        return self.norm(x)

    def forward_hidden(
        self, context: Float[Tensor, "b t n d"], hidden: Float[Tensor, "b t n d"]
    ) -> Float[Tensor, "b t n d"]:
        """Read each frame of `hidden` after the frames of `context` that came before it.

        Frame t of the result depends on frames 0..t-1 of `context` and frame t of `hidden` alone:
        for all frames of a clip at once, what play computes for the newest one.
        """
        t = context.shape[1]
        # As one clip of twice the length, so that each matrix product covers both.
        x = _as_computed(torch.cat([context, hidden], dim=1))
        rotation, bias = _clip_tables(t, self.window, self.head_dim, True, x)
        for block in self.blocks[:-1]:
            x, q, key_value = block.within_frame(x, rotation)
            x = block.across_frames(x, q, key_value, bias)
        x, q, key_value = self.blocks[-1].within_frame(x, rotation)
        # Of the context, only the last block's keys and values are still needed.
        x = self.blocks[-1].across_frames(x[:, t:], q[..., t:, :], key_value, bias[t:])
        return self.norm(x)

    def forward_next(
        self, x: Float[Tensor, "b t n d"], past: Past, *, wanted: int
    ) -> tuple[Float[Tensor, "b _ n d"], FrameKeyValue]:
        """Features of the next frames, after those in a `Ring`; a pure function.

        Args:
            past: `Ring.past(t)`, for the t frames of `x`, as tensors.
            wanted: how many of the t frames, the last ones, get features. The last block skips
                what only the others need.

        Returns:
            Features, and keys and values of the first frame of `x`, for `Ring.append`.
        """
        keys, values = [], []
        for index, block in enumerate(self.blocks):
            x, q, key_value = block.within_frame(x, (past.cos, past.sin))
            bias = past.bias
            if index + 1 == len(self.blocks):
                skipped = x.shape[1] - wanted
                x, q, bias = x[:, skipped:], q[..., skipped:, :], bias[..., skipped:, :]
            if x.shape[1]:
                of_block = past.keys[index], past.values[index]
                x = block.across_frames(x, q, key_value, bias, of_block)
            for kept, fresh in zip((keys, values), key_value, strict=True):
                kept.append(fresh[..., 0, :])
        return self.norm(x), (torch.stack(keys), torch.stack(values))

    def new_ring(self, batch_size: int, num_tokens: int) -> Ring:
        """An empty past for this stack, of its weights' dtype and on their device."""
        shape = len(self.blocks), batch_size, num_tokens, self.num_heads
        keys = self.norm.weight.new_zeros(*shape, self.window - 1, self.head_dim)
        return Ring(keys, torch.zeros_like(keys), lambda table: torch.from_numpy(table).to(keys))


class STBlock(nn.Module):
    """Spatial attention, temporal attention, FFN; pre-norm, residual."""

    compiled_methods = "within_frame", "across_frames"

    def __init__(self, dim: int, num_heads: int) -> None:
        """Args: dim: model width, divisible by num_heads."""
        super().__init__()
        self.spatial = Attention(dim, num_heads)
        self.temporal = Attention(dim, num_heads)
        self.feed_forward = nn.Sequential(
            RMSNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim)
        )

    def within_frame(
        self, x: Float[Tensor, "b t n d"], rotation: Rotation
    ) -> tuple[Float[Tensor, "b t n d"], Float[Tensor, "b n k t e"], KeyValue]:
        """First half: spatial attention, then queries, keys and values of temporal attention."""
        (q, k), v = self.spatial.project(x, "b t n (c k e) -> c b t k n e")
        x = x + self.spatial.output(attend(q, k, v), "b t k n e -> b t n (k e)")
        q_and_k, v = self.temporal.project(x, "b t n (c k e) -> c b n k t e")
        q, k = _rotate(q_and_k, rotation)
        return x, q, (k, v)

    def across_frames(
        self,
        x: Float[Tensor, "b t n d"],
        q: Float[Tensor, "b n k t e"],
        key_value: SeenKeyValue,
        bias: Float[Tensor, "*b t _"],
        past: PastKeyValue | None = None,
    ) -> Float[Tensor, "b t n d"]:
        """Second half: attention across frames at the same token's position, then the FFN.

        Args:
            past: keys and values of the frames before; in `bias` they come first.
        """
        attended = attend(q, *key_value, bias, past)
        x = x + self.temporal.output(attended, "b n k t e -> b t n (k e)")
        return x + self.feed_forward(x)


def recompute_blocks(net: nn.Module) -> None:
    """Side effect: ST-blocks keep only their inputs for the backward pass, and compute again.

    A third more work for a fraction of the memory (Chen et al. 2016, arXiv:1604.06174).
    """
    for block in _blocks(net):
        block.within_frame = partial(checkpoint, block.within_frame, use_reentrant=False)
        block.across_frames = partial(checkpoint, block.across_frames, use_reentrant=False)


class Attention(nn.Module):
    """The learnt part of attention: norms, and projections to and from the heads."""

    def __init__(self, dim: int, num_heads: int) -> None:
        """Args: dim: model width, divisible by num_heads."""
        super().__init__()
        self.num_heads = num_heads
        self.norm = RMSNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.query_scale = nn.Parameter(torch.ones(dim // num_heads))
        self.key_scale = nn.Parameter(torch.ones(dim // num_heads))
        self.out = nn.Linear(dim, dim, bias=False)

    def project(self, x: Tensor, layout: str) -> tuple[Tensor, Tensor]:
        """Queries with keys (RMS-normed per head, stacked), and values, in the layout asked for.

        The queries are already divided by the square root of the head's width.
        """
        qkv = rearrange(self.qkv(self.norm(x)), layout, c=3, k=self.num_heads)
        temperature = len(self.query_scale) ** -0.5
        scale = torch.stack([self.query_scale * temperature, self.key_scale])
        return rms_norm(qkv[:2], rearrange(scale, "c e -> c 1 1 1 1 e")), qkv[2]

    def output(self, attended: Tensor, layout: str) -> Tensor:
        """Heads merged and projected back to the model's width."""
        return self.out(rearrange(attended, layout))


class RMSNorm(nn.Module):
    """`rms_norm` with a learnt scale."""

    def __init__(self, dim: int) -> None:
        """Args: dim: width of the last axis."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Each vector scaled to unit mean square, then by the learnt scale."""
        return rms_norm(x, self.weight)


def rms_norm(x: Float[Tensor, "... d"], scale: Float[Tensor, "*_ d"]) -> Float[Tensor, "... d"]:
    """Vectors of unit mean square, times `scale` (Zhang & Sennrich 2019, arXiv:1910.07467)."""
    d = x.shape[-1]
    if x.is_cuda:
        # The cast: in some versions of PyTorch, autocast makes this norm float32.
        return F.rms_norm(x, (d,), eps=EPSILON).to(x.dtype) * scale.to(x.dtype)
    # On a CPU, PyTorch's norm is six operations. The cast: autocast may have made x bf16.
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(EPSILON)
    return x / length * (scale * d**0.5).to(x.dtype)


def attend(
    q: Float[Tensor, "... t e"],
    k: Float[Tensor, "... s e"],
    v: Float[Tensor, "... s e"],
    bias: Float[Tensor, "*b t _"] | None = None,
    past: tuple[Float[Tensor, "... p e"], Float[Tensor, "... p e"]] | None = None,
) -> Float[Tensor, "... t e"]:
    """Attention with `bias` added to the scores; the queries are already scaled.

    Args:
        past: further keys and values, which come before `k` and `v`.
    """
    if q.is_cuda:
        if past is not None:
            k, v = torch.cat([past[0], k], dim=-2), torch.cat([past[1], v], dim=-2)
        return fused_attend(q, k, v, bias)
    # On CPU and for frames of 64 tokens two plain matmuls beat the fused kernel in bf16.
    scores = q @ k.mT
    if past is not None:  # join scores, which are much smaller than keys and values
        scores = torch.cat([q @ past[0].mT, scores], dim=-1)
    if bias is not None:
        scores = scores + bias.to(scores.dtype)
    weights = scores.softmax(dim=-1).to(v.dtype)
    if past is None:
        return weights @ v
    of_past, of_next = weights.tensor_split((past[0].shape[-2],), dim=-1)
    return of_past @ past[1] + of_next @ v


def fused_attend(
    q: Float[Tensor, "... h t e"],
    k: Float[Tensor, "... h s e"],
    v: Float[Tensor, "... h s e"],
    bias: Float[Tensor, "*b t s"] | None = None,
) -> Float[Tensor, "... h t e"]:
    """`attend` by PyTorch's fused kernels: four axes, the first with at most `MOST_ENTRIES`."""
    q_k_v = [rearrange(x, "... h t e -> (...) h t e") for x in (q, k, v.to(q.dtype))]
    split = zip(*(x.split(MOST_ENTRIES) for x in q_k_v), strict=True)
    # A bias without batch axes serves all parts.
    biases = itertools.repeat(None if bias is None else bias.to(q.dtype))
    if bias is not None and bias.ndim > 2:
        bias = bias.to(q.dtype).expand(*q.shape[:-3], 1, *bias.shape[-2:])
        biases = bias.flatten(0, -4).split(MOST_ENTRIES)
    attended = [
        F.scaled_dot_product_attention(*part, attn_mask=mask, scale=1.0)
        for part, mask in zip(split, biases)  # noqa: B905
    ]
    return (attended[0] if len(attended) == 1 else torch.cat(attended)).reshape(q.shape)


def _blocks(net: nn.Module) -> list[STBlock]:
    return [module for module in net.modules() if isinstance(module, STBlock)]


def _as_computed(x: Tensor) -> Tensor:
    """On a GPU, in autocast's dtype: the residual stream then takes half the bytes."""
    device = x.device.type
    is_mixed = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return x.to(torch.get_autocast_dtype(device)) if x.is_cuda and is_mixed else x


def _clip_tables(
    num_frames: int, window: int, head_dim: int, hides: bool, like: Tensor
) -> tuple[Rotation, Float[Tensor, "t t"]]:
    """Rotation, and the bias that lets a frame attend to itself and to the past in its window.

    Args:
        hides: the clip is there twice, as context and hidden. Both attend to the context's past,
            and nothing attends to a hidden frame but itself.
        like: has the dtype and the device of the result.
    """
    # During export, tensors are placeholders and must not stay in the cache.
    make = _make_clip_tables.__wrapped__ if torch.compiler.is_exporting() else _make_clip_tables
    return make(num_frames, window, head_dim, hides, like.device, like.dtype)


@lru_cache(maxsize=64)  # a new table in every step would stall a GPU
@torch.inference_mode(False)  # cached tables serve training, too
def _make_clip_tables(
    num_frames: int,
    window: int,
    head_dim: int,
    hides: bool,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Rotation, Float[Tensor, "t t"]]:
    positions = np.arange(num_frames)
    distance = positions[:, None] - positions
    past, itself = (distance > 0) & (distance < window), distance == 0
    may_attend = past | itself
    if hides:
        positions = np.tile(positions, 2)
        may_attend = np.block([[may_attend, np.zeros_like(past)], [past, itself]])
    tables = *ring.rotation(positions, head_dim), ring.bias(may_attend)
    cos, sin, bias = (torch.from_numpy(table).to(device, dtype) for table in tables)
    return (cos, sin), bias


def _rotate(x: Float[Tensor, "... t e"], rotation: Rotation) -> Float[Tensor, "... t e"]:
    """Each pair (i, i + e/2) of a vector, rotated by its frame's angle."""
    cos, sin = (table.to(x.dtype) for table in rotation)
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)
