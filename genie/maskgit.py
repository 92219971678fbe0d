"""MaskGIT: reveal the tokens of one frame in a few parallel passes.

In: logits, tokens so far and random numbers. Out: tokens. Knows no network and no frames, and makes
no random numbers.

Source: MaskGIT (Chang et al. 2022, arXiv:2202.04200), section 3.2; used by Genie, section 2.1.
The entropy bound is that of entropy-bounded unmasking (Ben-Hamu et al. 2025, arXiv:2505.24857).
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from genie.sampling import Pace


def reveal(
    logits: Float[Tensor, "b n v"],
    tokens: Int[Tensor, "b n"],
    noise: Float[Tensor, "b 2 n"],
    mask_id: int,
    pace: Pace,
) -> Int[Tensor, "b n"]:
    """Draw the hidden tokens and reveal the most confident ones; a pure function.

    A revealed token never changes. Tokens of one pass are drawn independently of one another, which
    does little harm where their entropy is low: hence the entropy bound.

    Args:
        logits: guidance already applied.
        tokens: hidden ones are `mask_id`.
        noise: in 0..1, two numbers per token: one to draw it, one for the order of revealing.
        pace: its fields are scalar tensors.
    """
    for_token, for_order = noise.unbind(1)
    logits = logits.float()
    drawn = _draw(logits, pace.temperature, for_token)
    log_probs = logits.log_softmax(dim=-1)
    confidence = log_probs.gather(-1, drawn[..., None])[..., 0]
    confidence = confidence + pace.order_noise * _gumbel(for_order)
    hidden = tokens == mask_id
    ranked = confidence.masked_fill(~hidden, float("inf")).argsort(dim=-1, descending=True)
    entropy = -(log_probs.exp() * log_probs).sum(dim=-1).masked_fill(~hidden, 0.0)
    entropy = entropy.gather(-1, ranked)
    num_tokens = tokens.shape[1]
    is_late = torch.arange(num_tokens, device=tokens.device) >= num_tokens - pace.num_hidden
    entropy_before = entropy.cumsum(dim=-1) - entropy
    is_safe = (entropy_before < num_tokens * pace.entropy_bound) & (pace.entropy_bound > 0)
    stays_hidden = _by_position(is_late & ~is_safe, ranked)
    return torch.where(hidden & ~stays_hidden, drawn, tokens)


def _draw(
    logits: Float[Tensor, "b n v"], temperature: Float[Tensor, ""], noise: Float[Tensor, "b n"]
) -> Int[Tensor, "b n"]:
    """The token at which the cumulative distribution passes `noise`."""
    cumulative = (logits / temperature.clamp_min(1e-6)).softmax(dim=-1).cumsum(dim=-1)
    passed = cumulative <= (noise * cumulative[..., -1])[..., None]
    drawn = passed.sum(dim=-1).clamp_max(logits.shape[-1] - 1)
    return torch.where(temperature == 0, logits.argmax(dim=-1), drawn)


def _gumbel(uniform: Tensor) -> Tensor:
    return -(-uniform.clamp(1e-9, 1 - 1e-7).log()).log()


def _by_position(by_rank: Bool[Tensor, "b n"], ranked: Int[Tensor, "b n"]) -> Bool[Tensor, "b n"]:
    return torch.zeros_like(by_rank).scatter(-1, ranked, by_rank)
