"""ST-transformer: attention within a frame, then causal attention across frames, then one FFN.

In and out: Float[Tensor, "b t n d"]. A frame never sees the future, and sees the `window - 1`
frames before it. Knows nothing of video, actions or codebooks.

Source: Genie (Bruce et al. 2024, arXiv:2402.15391), section 2, figure 4.
Differs: rotary time positions (Su et al. 2021, arXiv:2104.09864) instead of absolute ones, so that
keys and values of past frames stay valid while the window slides; RMS norms; QK-norm throughout.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

ROTARY_BASE = 1000.0

KeyValue = tuple[Float[Tensor, "b n k t e"], Float[Tensor, "b n k t e"]]
PastKeyValue = tuple[Float[Tensor, "b n k s e"], Float[Tensor, "b n k s e"]]


class STTransformer(nn.Module):
    """A stack of ST-blocks. Work per frame is the same for any length of history."""

    def __init__(self, *, dim: int, num_blocks: int, num_heads: int, window: int) -> None:
        """Args: window: frames that one frame attends to, itself included."""
        super().__init__()
        self.window = window
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.blocks = nn.ModuleList(STBlock(dim, num_heads) for _ in range(num_blocks))
        self.norm = nn.RMSNorm(dim)

    def forward(self, x: Float[Tensor, "b t n d"]) -> Float[Tensor, "b t n d"]:
        """A whole clip at once."""
        positions = torch.arange(x.shape[1], device=x.device)
        rotation = _rotation(positions, self.head_dim)
        may_attend = self._past(positions) | _itself(positions)
        for block in self.blocks:
            x, _ = block(x, rotation, may_attend)
        return self.norm(x)

    def forward_hidden(
        self, context: Float[Tensor, "b t n d"], hidden: Float[Tensor, "b t n d"]
    ) -> Float[Tensor, "b t n d"]:
        """Read each frame of `hidden` after the frames of `context` that came before it.

        Frame t of the result depends on frames 0..t-1 of `context` and frame t of `hidden` alone:
        for every frame of a clip at once just what playing does for the newest one.
        """
        positions = torch.arange(context.shape[1], device=context.device)
        rotation = _rotation(positions, self.head_dim)
        past, itself = self._past(positions), _itself(positions)
        past_or_itself = torch.cat([past, itself], dim=1)
        *earlier, last = self.blocks
        for block in earlier:
            following, key_value = block(context, rotation, past | itself)
            hidden, _ = block(hidden, rotation, past_or_itself, past=key_value)
            context = following
        # Of the last block's context only keys and values are read.
        _, _, key_value = last.within_frame(context, rotation)
        hidden, _ = last(hidden, rotation, past_or_itself, past=key_value)
        return self.norm(hidden)

    def forward_cached(
        self, x: Float[Tensor, "b t n d"], cache: "KVCache"
    ) -> tuple[Float[Tensor, "b t n d"], list[KeyValue]]:
        """The newest frames; `cache` stands for the frames before them and is not changed.

        Returns:
            The frames' features, and their keys and values for `cache.append`.
        """
        positions = torch.arange(cache.num_frames, cache.num_frames + x.shape[1], device=x.device)
        rotation = _rotation(positions, self.head_dim)
        may_attend = None
        if x.shape[1] > 1:  # one frame alone sees every slot: the ring holds nothing older
            keys = torch.cat([cache.positions(x.device), positions])
            distance = positions[:, None] - keys[None, :]
            may_attend = (distance >= 0) & (distance < self.window)
        fresh = []
        for index, block in enumerate(self.blocks):
            x, key_value = block(x, rotation, may_attend, past=cache.read(index))
            fresh.append(key_value)
        return self.norm(x), fresh

    def new_cache(self) -> "KVCache":
        """An empty cache for this stack."""
        return KVCache(num_blocks=len(self.blocks), capacity=self.window - 1)

    def _past(self, positions: Tensor) -> Bool[Tensor, "t t"]:
        distance = positions[:, None] - positions[None, :]
        return (distance > 0) & (distance < self.window)


class KVCache:
    """Keys and values of the last `capacity` frames, for every block, in a ring.

    Constant size: frame number 10,000 overwrites the slot of the oldest frame. Its owner decides
    what is appended; reading changes nothing.
    """

    def __init__(self, *, num_blocks: int, capacity: int) -> None:
        """Args: capacity: past frames kept (0 or more)."""
        self.capacity = capacity
        self.num_frames = 0
        self._blocks: list[PastKeyValue | None] = [None] * num_blocks

    def read(self, block: int) -> PastKeyValue | None:
        """Keys and values of one block in slot order, or None while there are none."""
        return self._blocks[block]

    def positions(self, device: torch.device) -> Int[Tensor, " s"]:
        """Number of the frame in each slot."""
        num_stored = min(self.num_frames, self.capacity)
        oldest = self.num_frames - num_stored
        shift = oldest % self.capacity if self.capacity else 0
        return oldest + torch.arange(num_stored, device=device).roll(shift)

    def append(self, fresh: list[KeyValue]) -> None:
        """Store the keys and values of the first of the frames that `forward_cached` was given."""
        slot = self.num_frames % self.capacity if self.capacity else 0
        for block, pair in enumerate(fresh):
            if self.capacity:
                self._blocks[block] = tuple(
                    self._put(stored, new[:, :, :, :1], slot)
                    for stored, new in zip(self._blocks[block] or (None, None), pair, strict=True)
                )
        self.num_frames += 1

    def copy(self) -> "KVCache":
        """An independent copy. Tensors are never written in place, so they can be shared."""
        other = KVCache(num_blocks=len(self._blocks), capacity=self.capacity)
        other.num_frames = self.num_frames
        other._blocks = list(self._blocks)
        return other

    def _put(self, stored: Tensor | None, new: Tensor, slot: int) -> Tensor:
        if stored is None:
            return new
        if stored.shape[3] < self.capacity:
            return torch.cat([stored, new], dim=3)
        return torch.cat([stored[:, :, :, :slot], new, stored[:, :, :, slot + 1 :]], dim=3)


class STBlock(nn.Module):
    """Spatial attention, temporal attention, FFN; pre-norm, residual."""

    def __init__(self, dim: int, num_heads: int) -> None:
        """Args: dim: model width, divisible by num_heads."""
        super().__init__()
        self.spatial = Attention(dim, num_heads)
        self.temporal = Attention(dim, num_heads)
        self.feed_forward = nn.Sequential(
            nn.RMSNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim)
        )

    def forward(
        self,
        x: Float[Tensor, "b t n d"],
        rotation: tuple[Tensor, Tensor],
        may_attend: Bool[Tensor, "t _"] | None,
        past: PastKeyValue | None = None,
    ) -> tuple[Float[Tensor, "b t n d"], KeyValue]:
        """One block; `past` is put before the frames' own keys and values in time attention."""
        x, q, key_value = self.within_frame(x, rotation)
        keys, values = key_value if past is None else _join(past, key_value)
        attended = attend(q, keys, values, may_attend)
        x = x + self.temporal.output(attended, "b n k t e -> b t n (k e)")
        return x + self.feed_forward(x), key_value

    def within_frame(
        self, x: Float[Tensor, "b t n d"], rotation: tuple[Tensor, Tensor]
    ) -> tuple[Float[Tensor, "b t n d"], Float[Tensor, "b n k t e"], KeyValue]:
        """The half that sees one frame: spatial attention, then time's queries, keys and values."""
        q, k, v = self.spatial.project(x, "b t n (c k e) -> c b t k n e")
        x = x + self.spatial.output(attend(q, k, v), "b t k n e -> b t n (k e)")
        q, k, v = self.temporal.project(x, "b t n (c k e) -> c b n k t e")
        return x, _rotate(q, rotation), (_rotate(k, rotation), v)


class Attention(nn.Module):
    """The learnt half of attention: projections, norms and the way back."""

    def __init__(self, dim: int, num_heads: int) -> None:
        """Args: dim: model width, divisible by num_heads."""
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.RMSNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.query_scale = nn.Parameter(torch.ones(dim // num_heads))
        self.key_scale = nn.Parameter(torch.ones(dim // num_heads))
        self.out = nn.Linear(dim, dim, bias=False)

    def project(self, x: Tensor, layout: str) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys (both RMS-normed per head) and values in the layout asked for."""
        q, k, v = rearrange(self.qkv(self.norm(x)), layout, c=3, k=self.num_heads)
        return _rms_norm(q, self.query_scale), _rms_norm(k, self.key_scale), v

    def output(self, attended: Tensor, layout: str) -> Tensor:
        """Heads merged and projected back to the model's width."""
        return self.out(rearrange(attended, layout))


def attend(
    q: Float[Tensor, "... t e"],
    k: Float[Tensor, "... s e"],
    v: Float[Tensor, "... s e"],
    may_attend: Bool[Tensor, "t s"] | None = None,
) -> Float[Tensor, "... t e"]:
    """Softmax attention; True in `may_attend` allows a pair."""
    if q.is_cuda:
        return fused_attend(q, k, v, may_attend)
    # On CPU and for frames of 64 tokens two plain matmuls beat the fused kernel in bf16.
    scores = q @ k.mT * q.shape[-1] ** -0.5
    if may_attend is not None:
        scores = scores.masked_fill(~may_attend, float("-inf"))
    return scores.softmax(dim=-1).to(v.dtype) @ v


def fused_attend(
    q: Float[Tensor, "... h t e"],
    k: Float[Tensor, "... h s e"],
    v: Float[Tensor, "... h s e"],
    may_attend: Bool[Tensor, "t s"] | None = None,
) -> Float[Tensor, "... h t e"]:
    """`attend` by the library; its fused kernels want exactly four axes."""
    four_axes = (rearrange(x, "... h t e -> (...) h t e") for x in (q, k, v.to(q.dtype)))
    return F.scaled_dot_product_attention(*four_axes, attn_mask=may_attend).reshape(q.shape)


def _rms_norm(x: Tensor, scale: Tensor) -> Tensor:
    # nn.RMSNorm leaves the fused kernel when autocast makes x bf16 and its scale stays float32.
    return F.rms_norm(x, scale.shape, scale.to(x.dtype))


def _join(past: PastKeyValue, own: KeyValue) -> tuple[Tensor, Tensor]:
    return torch.cat([past[0], own[0]], dim=3), torch.cat([past[1], own[1]], dim=3)


def _itself(positions: Tensor) -> Bool[Tensor, "t t"]:
    return positions[:, None] == positions[None, :]


def _rotation(positions: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    # float64: a session may run for millions of frames and the angle must stay exact.
    exponent = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float64) / head_dim
    angles = positions.double()[:, None] * ROTARY_BASE**-exponent
    return angles.cos().float(), angles.sin().float()


def _rotate(x: Float[Tensor, "... t e"], rotation: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = (table.to(x.dtype) for table in rotation)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
