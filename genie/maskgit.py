"""MaskGIT: reveal the tokens of one frame in a few parallel passes.

In: logits, tokens so far and random numbers. Out: tokens. Knows no network and no frames, and makes
no random numbers.

Source: MaskGIT (Chang et al. 2022, arXiv:2202.04200), section 3.2; used by Genie, section 2.1.
The entropy bound is that of entropy-bounded unmasking (Ben-Hamu et al. 2025, arXiv:2505.24857).
"""

import itertools
import math
import operator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from genie.sampling import Pace


def reveal(
    logits: Float[Tensor, "b n v"],
    tokens: Int[Tensor, "b n"],
    noise: Float[Tensor, "b 2 n"],
    factors: tuple[int, ...],
    pace: Pace,
) -> Int[Tensor, "b n"]:
    """Draw the hidden tokens and reveal the most confident ones; a pure function.

    A revealed token never changes. Tokens of one pass are drawn independently of one another, which
    does little harm where their entropy is low: hence the entropy bound.

    Args:
        logits: guidance already applied; of all digits of a token, one digit after the other.
        tokens: the id of hidden ones is the product of `factors`.
        noise: in 0..1, two numbers per token: one to draw it, one for the order of revealing.
        factors: numbers of values of a token's digits, the fastest first.
        pace: its fields are scalar tensors.
    """
    for_token, for_order = noise.unbind(1)
    drawn, confidence, entropy = _draw(logits.float(), factors, pace.temperature, for_token)
    confidence = confidence + pace.order_noise * _gumbel(for_order)
    hidden = tokens == math.prod(factors)
    ranked = confidence.masked_fill(~hidden, float("inf")).argsort(dim=-1, descending=True)
    entropy = entropy.masked_fill(~hidden, 0.0).gather(-1, ranked)
    num_tokens = tokens.shape[1]
    is_late = torch.arange(num_tokens, device=tokens.device) >= num_tokens - pace.num_hidden
    entropy_before = entropy.cumsum(dim=-1) - entropy
    is_safe = (entropy_before < num_tokens * pace.entropy_bound) & (pace.entropy_bound > 0)
    stays_hidden = _by_position(is_late & ~is_safe, ranked)
    return torch.where(hidden & ~stays_hidden, drawn, tokens)


def digits(tokens: Int[Tensor, "*shape"], factors: tuple[int, ...]) -> list[Int[Tensor, "*shape"]]:
    """The digits of tokens. Args: factors: the digits' numbers of values, the fastest first."""
    places = itertools.accumulate(factors, operator.mul, initial=1)
    return [tokens // place % factor for place, factor in zip(places, factors, strict=False)]


def _draw(
    logits: Float[Tensor, "b n v"],
    factors: tuple[int, ...],
    temperature: Float[Tensor, ""],
    noise: Float[Tensor, "b n"],
) -> tuple[Int[Tensor, "b n"], Float[Tensor, "b n"], Float[Tensor, "b n"]]:
    """Tokens, their log-probabilities, and the entropy they were drawn from.

    A digit is the value at which its cumulative distribution passes `noise`.
    """
    parts = logits.split(factors, dim=-1)
    places = itertools.accumulate(factors, operator.mul, initial=1)
    drawn = torch.zeros_like(noise, dtype=torch.long)
    confidence, entropy = torch.zeros_like(noise), torch.zeros_like(noise)
    for own, place in zip(parts, places, strict=False):
        cumulative = (own / temperature.clamp_min(1e-6)).softmax(dim=-1).cumsum(dim=-1)
        hit = noise * cumulative[..., -1]
        passed = (cumulative <= hit[..., None]).sum(dim=-1).clamp_max(own.shape[-1] - 1)
        digit = torch.where(temperature == 0, own.argmax(dim=-1), passed)
        if own is not parts[-1]:
            noise = _left_over(cumulative, hit, passed)
        drawn = drawn + place * digit
        log_probs = own.log_softmax(dim=-1)
        confidence = confidence + log_probs.gather(-1, digit[..., None])[..., 0]
        entropy = entropy - (log_probs.exp() * log_probs).sum(dim=-1)
    return drawn, confidence, entropy


def _left_over(
    cumulative: Float[Tensor, "b n v"], hit: Float[Tensor, "b n"], drawn: Int[Tensor, "b n"]
) -> Float[Tensor, "b n"]:
    """Noise for the next digit: where in its share of the distribution the drawn value was hit.

    That is as random as a new number, so that one number is enough for all digits.
    """
    above = cumulative.gather(-1, drawn[..., None])[..., 0]
    below = cumulative.gather(-1, (drawn - 1).clamp_min(0)[..., None])[..., 0] * (drawn > 0)
    return ((hit - below) / (above - below).clamp_min(1e-12)).clamp(2**-24, 1 - 2**-24)


def _gumbel(uniform: Tensor) -> Tensor:
    return -(-uniform.clamp(1e-9, 1 - 1e-7).log()).log()


def _by_position(by_rank: Bool[Tensor, "b n"], ranked: Int[Tensor, "b n"]) -> Bool[Tensor, "b n"]:
    return torch.zeros_like(by_rank).scatter(-1, ranked, by_rank)
