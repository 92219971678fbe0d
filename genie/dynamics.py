"""Dynamics: past tokens and actions to the next frame's tokens.

In: tokens and latent actions. Out: logits. Knows nothing of pixels or of sampling.

Source: Genie (Bruce et al. 2024, arXiv:2402.15391), section 2.1; MaskGIT training after Chang et
al. 2022 (arXiv:2202.04200).
Differs: with masking "frame", each frame is predicted from *unmasked* past frames, as in play; the
paper's masking ("clip") hides tokens in all frames, a past that does not occur in play.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from genie.errors import UserError
from genie.maskgit import digits
from genie.metrics import Metrics
from genie.ring import FrameKeyValue, Past
from genie.st_transformer import STTransformer

# Share of a clip's tokens, its first frame left out, that the loss is computed on. Either masking
# hides about three quarters; the share is fixed, since a size that varies would stall a GPU.
ASKED_SHARE = 0.8


@dataclass(frozen=True, kw_only=True)
class DynamicsConfig:
    """Shape and training recipe of the dynamics model."""

    num_tokens: int = 64
    """Tokens in a frame; the tokenizer's."""
    codebook_size: int = 1000
    """Values a token can take; the tokenizer's."""
    factors: tuple[int, ...] = ()
    """Numbers of values of a token's digits, see `CodebookConfig.factors`."""
    num_actions: int = 8
    """Latent actions; the latent action model's."""
    dim: int = 256
    """Model width."""
    num_blocks: int = 4
    """ST-blocks."""
    num_heads: int = 4
    """Attention heads; dim must be a multiple of twice this."""
    window: int = 12
    """Frames that one frame attends to, itself included."""
    masking: Literal["frame", "clip"] = "frame"
    """frame: each frame predicted from an unmasked past. clip: the paper's, one rate per clip."""
    corruption: float = 0.1
    """Largest share of an input frame's tokens replaced by random ones; drawn for each frame."""
    changed_weight: float = 2.0
    """Extra weight of tokens that differ from the frame before."""
    action_dropout: float = 0.1
    """Share of the transitions trained without their action, which guidance in play needs."""

    def __post_init__(self) -> None:
        if self.num_heads < 1 or self.dim % (2 * self.num_heads):
            raise UserError(f"dim {self.dim} is not a multiple of 2 x num_heads {self.num_heads}")
        if self.factors and math.prod(self.factors) != self.codebook_size:
            raise UserError(
                f"factors are {self.factors}: their product is not {self.codebook_size}"
            )
        if self.window < 2:
            raise UserError(f"window is {self.window}: the dynamics needs at least one past frame")
        if not 0 <= self.corruption <= 1:
            raise UserError(f"corruption is {self.corruption}: use a share from 0 to 1")
        if not 0 <= self.action_dropout < 1:
            raise UserError(f"action_dropout is {self.action_dropout}: use 0 to below 1")


class Dynamics(nn.Module):
    """Decoder-only MaskGIT ST-transformer."""

    def __init__(self, config: DynamicsConfig) -> None:
        """Args: config: see `DynamicsConfig`."""
        super().__init__()
        self.config = config
        self.mask_id = config.codebook_size
        self.no_action = config.num_actions
        self.factors = config.factors or (config.codebook_size,)
        self.num_logits = sum(self.factors)
        self.token = _TokenEmbedding(self.factors, config.dim)
        self.action = nn.Embedding(config.num_actions + 1, config.dim)
        self.position = nn.Parameter(0.02 * torch.randn(config.num_tokens, config.dim))
        self.transformer = STTransformer(
            dim=config.dim,
            num_blocks=config.num_blocks,
            num_heads=config.num_heads,
            window=config.window,
        )
        self.out = nn.Linear(config.dim, self.num_logits)
        nn.init.normal_(self.token.weight, std=0.02)
        nn.init.normal_(self.action.weight, std=0.02)

    def logits(
        self,
        tokens: Int[Tensor, "b t n"],
        actions: Int[Tensor, "b t-1"],
        hidden: Bool[Tensor, "b t n"] | None = None,
    ) -> Float[Tensor, "b t n v"]:
        """Logits of each frame's tokens, given all tokens of the frames before it.

        The last axis has the logits of all digits of a token, one digit after the other.

        Logits of frame t depend on tokens of frames 0..t-1, on the tokens of frame t that are not
        hidden, and on actions 0..t-1.

        Args:
            tokens: a clip.
            actions: action t leads from frame t to t+1.
            hidden: True where the net must predict; None hides every token.
        """
        hidden = torch.ones_like(tokens, dtype=torch.bool) if hidden is None else hidden
        return self.out(self._features(tokens, actions, hidden))

    def remember(
        self, tokens: Int[Tensor, "b n"], led_by: Int[Tensor, " b"], past: Past
    ) -> FrameKeyValue:
        """Keys and values of a finished frame, for `Ring.append`; a pure function.

        Args:
            led_by: the action that led to it; `no_action` for a session's first frame.
            past: keys and values of the frames before it.
        """
        x = self._embed(tokens[:, None], led_by[:, None])
        return self.transformer.forward_next(x, past, wanted=0)[1]

    def look_back(
        self, tokens: Int[Tensor, "b n"], led_by: Int[Tensor, " b"], past: Past
    ) -> tuple[Float[Tensor, "b n v"], FrameKeyValue]:
        """`remember`, and the next frame's logits before its action is known.

        Args:
            tokens: see `remember`.
            led_by: see `remember`.
            past: the same, for two next frames (`Ring.past(2)`).

        Returns:
            Logits of the next frame, all hidden and without an action; keys and values of this one.
        """
        frames = torch.stack([tokens, torch.full_like(tokens, self.mask_id)], dim=1)
        actions = torch.stack([led_by, torch.full_like(led_by, self.no_action)], dim=1)
        x = self._embed(frames, actions)
        features, newest = self.transformer.forward_next(x, past, wanted=1)
        return self.out(features[:, 0]), newest

    def next_logits(
        self, tokens: Int[Tensor, "b n"], actions: Int[Tensor, " b"], past: Past
    ) -> Float[Tensor, "b n v"]:
        """Logits of the next frame; a pure function.

        Args:
            tokens: of that frame; hidden ones are `mask_id`.
            actions: the action that leads to it.
            past: keys and values of the frames before it.
        """
        x = self._embed(tokens[:, None], actions[:, None])
        features, _ = self.transformer.forward_next(x, past, wanted=1)
        return self.out(features[:, 0])

    def forward(
        self, tokens: Int[Tensor, "b t n"], actions: Int[Tensor, "b t-1"]
    ) -> tuple[Float[Tensor, ""], Metrics]:
        """Training: cross-entropy of hidden tokens. Uses the global random generator.

        Metrics, on hidden tokens: `cross_entropy` in nats, `accuracy`, and `copy_accuracy`,
        which copying the frame before would have (the baseline to beat).
        """
        shown = self._corrupt(tokens)
        paper = self.config.masking == "clip"
        hidden = _clip_mask(tokens) if paper else _frame_mask(tokens)
        actions = self._withhold(actions)
        if paper:
            masked = self._embed(shown.masked_fill(hidden, self.mask_id), self._led_by(actions))
            features = self.transformer(masked)
        else:
            features = self._features(shown, actions, hidden)
        hidden[:, 0] = False  # the first frame is the prompt, never predicted
        return self._loss(features, tokens, hidden)

    def _features(self, tokens: Tensor, actions: Tensor, hidden: Tensor) -> Tensor:
        led_by = self._led_by(actions)
        context = self._embed(tokens, led_by)
        masked = self._embed(tokens.masked_fill(hidden, self.mask_id), led_by)
        return self.transformer.forward_hidden(context, masked)

    def _loss(
        self, features: Tensor, tokens: Tensor, hidden: Tensor
    ) -> tuple[Float[Tensor, ""], Metrics]:
        same = torch.zeros_like(hidden)
        same[:, 1:] = tokens[:, 1:] == tokens[:, :-1]
        asked = _choose_asked(hidden)
        is_hidden, same, target = (
            facts.flatten()[asked] for facts in (hidden.float(), same.float(), tokens)
        )
        logits = self.out(features.flatten(0, 2).index_select(0, asked)).float()
        entropy, right = torch.zeros_like(is_hidden), torch.ones_like(is_hidden)
        parts = logits.split(self.factors, dim=-1)
        for own, digit in zip(parts, digits(target, self.factors), strict=True):
            entropy = entropy + F.cross_entropy(own, digit, reduction="none")
            right = right * (own.argmax(-1) == digit)
        weight = is_hidden * (1 + self.config.changed_weight * (1 - same))
        metrics = {
            "cross_entropy": _mean(entropy.detach(), is_hidden),
            "accuracy": _mean(right, is_hidden),
            "copy_accuracy": _mean(same, is_hidden),
        }
        return _mean(entropy, weight), metrics

    def _corrupt(self, tokens: Int[Tensor, "b t n"]) -> Int[Tensor, "b t n"]:
        rate = self.config.corruption * torch.rand(*tokens.shape[:2], 1, device=tokens.device)
        replaced = torch.rand(tokens.shape, device=tokens.device) < rate
        noise = torch.randint_like(tokens, self.config.codebook_size)
        return torch.where(replaced, noise, tokens)

    def _withhold(self, actions: Int[Tensor, "b t"]) -> Int[Tensor, "b t"]:
        withheld = torch.rand(actions.shape, device=actions.device) < self.config.action_dropout
        return actions.masked_fill(withheld, self.no_action)

    def _led_by(self, actions: Int[Tensor, "b t"]) -> Int[Tensor, "b t+1"]:
        """The action that led to each frame; `no_action` for the first."""
        return F.pad(actions, (1, 0), value=self.no_action)

    def _embed(self, tokens: Int[Tensor, "b t n"], led_by: Int[Tensor, "b t"]) -> Tensor:
        return self.token(tokens) + self.action(led_by)[:, :, None] + self.position


class _TokenEmbedding(nn.Embedding):
    """Adds the embeddings of a token's digits; the last row is that of a hidden token."""

    def __init__(self, factors: tuple[int, ...], dim: int) -> None:
        super().__init__(sum(factors) + 1, dim)
        self.factors = factors

    def forward(self, input: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape d"]:
        embed, offsets = super().forward, itertools.accumulate(self.factors, initial=0)
        parts = zip(digits(input, self.factors), offsets, strict=False)
        first, *others = (embed(digit + offset) for digit, offset in parts)
        is_hidden = (input == math.prod(self.factors))[..., None]
        return torch.where(is_hidden, self.weight[-1], sum(others, start=first))


def _choose_asked(hidden: Bool[Tensor, "b t n"]) -> Int[Tensor, " asked"]:
    """Random indices into the flattened clip, `ASKED_SHARE` of it: hidden tokens before others."""
    count = math.ceil(ASKED_SHARE * hidden[:, 1:].numel())
    rank = hidden + torch.rand(hidden.shape, device=hidden.device)
    return rank.flatten().topk(count, sorted=False).indices


def _mean(x: Float[Tensor, " asked"], weight: Float[Tensor, " asked"]) -> Float[Tensor, ""]:
    return (weight * x).sum() / weight.sum().clamp_min(1.0)


def _frame_mask(tokens: Int[Tensor, "b t n"]) -> Bool[Tensor, "b t n"]:
    """One masking rate per frame, cosine-distributed as in sampling; 1 for a quarter of the frames.

    The first pass over a new frame sees no token of it, and with few passes it matters most.
    """
    b, t, _ = tokens.shape
    rate = torch.cos(torch.pi / 2 * torch.rand(b, t, 1, device=tokens.device))
    rate = rate.masked_fill(torch.rand(b, t, 1, device=tokens.device) < 0.25, 1.0)
    return torch.rand(tokens.shape, device=tokens.device) < rate


def _clip_mask(tokens: Int[Tensor, "b t n"]) -> Bool[Tensor, "b t n"]:
    """The paper's: Bernoulli masking at one rate from U(0.5, 1) per clip, all frames but the first.

    Source: Genie, section 2.1.
    """
    rate = 0.5 + 0.5 * torch.rand(len(tokens), 1, 1, device=tokens.device)
    hidden = torch.rand(tokens.shape, device=tokens.device) < rate
    hidden[:, 0] = False
    return hidden
