"""MaskGIT: reveal the tokens of one frame in a few parallel passes.

In: a function from partly hidden tokens to logits, and random numbers. Out: tokens. Knows no
network and no frames, and draws nothing itself.

Source: MaskGIT (Chang et al. 2022, arXiv:2202.04200), section 3.2; used by Genie, section 2.1.
Revealing more where little is open: entropy-bounded unmasking (Ben-Hamu et al. 2025,
arXiv:2505.24857).
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Predict = Callable[[Int[Tensor, "b n"]], Float[Tensor, "b n v"]]


def fill_frame(
    predict: Predict,
    *,
    noise: Float[Tensor, "b k 2 n"],
    mask_id: int,
    temperature: float,
    choice_temperature: float,
    entropy_bound: float,
) -> Int[Tensor, "b n"]:
    """Sample all n tokens of a frame in up to k passes; each sees what the passes before it chose.

    After pass i of k a share cos(pi/2 * i/k) of the tokens is still hidden; the most confident
    ones are kept. A revealed token never changes. Tokens that are revealed together do not know of
    one another, which does no harm where there is little to choose: so a pass reveals more than its
    share, as long as what they leave open stays below a bound, and there are no passes once nothing
    is hidden.

    Args:
        predict: tokens, hidden ones being `mask_id`, to logits.
        noise: numbers in 0..1, the only source of randomness: per pass and token one to draw it by
            and one for the order of revealing.
        mask_id: the id that stands for "hidden".
        temperature: of the token draws; 0 takes the most likely token.
        choice_temperature: noise in the order of revealing, falling to 0 with the last pass. 0:
            strictly by confidence.
        entropy_bound: in nats for each of the n tokens: a token is revealed if the entropies of the
            surer ones sum up to less than n times that. 0 keeps to the share.
    """
    b, num_steps, _, n = noise.shape
    tokens = torch.full((b, n), mask_id, device=noise.device)
    rank = torch.arange(n, device=noise.device)
    for step, (for_token, for_order) in enumerate(noise.permute(1, 2, 0, 3), start=1):
        logits = predict(tokens).float()
        drawn = _draw(logits, temperature, for_token)
        if step == num_steps:
            return torch.where(tokens == mask_id, drawn, tokens)
        beliefs = logits.log_softmax(dim=-1)
        confidence = beliefs.gather(-1, drawn[..., None])[..., 0]
        if choice_temperature:
            fading = choice_temperature * (1 - step / num_steps)
            confidence = confidence + fading * _gumbel(for_order)
        hidden = tokens == mask_id
        ranked = confidence.masked_fill(~hidden, float("inf")).argsort(dim=-1)
        stays = rank < int(n * math.cos(math.pi / 2 * step / num_steps))
        if entropy_bound:
            stays = stays & ~_is_safe(beliefs, hidden, ranked, n * entropy_bound)
        tokens = _reveal(tokens, drawn, ranked, stays, mask_id)
        if entropy_bound and not (tokens == mask_id).any():
            break
    return tokens


def _draw(
    logits: Float[Tensor, "b n v"], temperature: float, noise: Float[Tensor, "b n"]
) -> Int[Tensor, "b n"]:
    """The token at which the cumulative distribution passes `noise`."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    cumulative = (logits / temperature).softmax(dim=-1).cumsum(dim=-1)
    drawn = torch.searchsorted(cumulative, (noise * cumulative[..., -1])[..., None], right=True)
    return drawn[..., 0].clamp_max(logits.shape[-1] - 1)


def _gumbel(uniform: Tensor) -> Tensor:
    return -(-uniform.clamp(1e-9, 1 - 1e-7).log()).log()


def _is_safe(
    beliefs: Float[Tensor, "b n v"],
    hidden: Bool[Tensor, "b n"],
    ranked: Int[Tensor, "b n"],
    bound: float,
) -> Bool[Tensor, "b n"]:
    """By rank, whether the entropies of all surer hidden tokens sum up to less than the bound."""
    entropy = -(beliefs.exp() * beliefs).sum(dim=-1).masked_fill(~hidden, 0.0)
    by_rank = entropy.gather(-1, ranked)
    of_surer = by_rank.flip(-1).cumsum(dim=-1).flip(-1) - by_rank
    return of_surer < bound


def _reveal(
    tokens: Int[Tensor, "b n"],
    drawn: Int[Tensor, "b n"],
    ranked: Int[Tensor, "b n"],
    stays: Bool[Tensor, "*b n"],
    mask_id: int,
) -> Int[Tensor, "b n"]:
    """Show the hidden tokens but those that stay so; `stays` is by rank, the unsurest first."""
    stays_hidden = torch.zeros_like(tokens, dtype=torch.bool).scatter(
        -1, ranked, stays.expand_as(ranked)
    )
    return torch.where((tokens == mask_id) & ~stays_hidden, drawn, tokens)
