"""MaskGIT: reveal the tokens of one frame in a few parallel passes.

In: a function from partly hidden tokens to logits, and random numbers. Out: tokens. Knows no
network and no frames, and draws nothing itself.

Source: MaskGIT (Chang et al. 2022, arXiv:2202.04200), section 3.2; used by Genie, section 2.1.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

Predict = Callable[[Int[Tensor, "b n"]], Float[Tensor, "b n v"]]


def fill_frame(
    predict: Predict,
    *,
    noise: Float[Tensor, "b k 2 n"],
    mask_id: int,
    temperature: float,
    choice_temperature: float,
) -> Int[Tensor, "b n"]:
    """Sample all n tokens of a frame in k passes; each sees what the passes before it chose.

    After pass i of k a share cos(pi/2 * i/k) of the tokens is still hidden; the most confident
    ones are kept. A revealed token never changes.

    Args:
        predict: tokens, hidden ones being `mask_id`, to logits.
        noise: numbers in 0..1, the only source of randomness: per pass and token one to draw it by
            and one for the order of revealing.
        mask_id: the id that stands for "hidden".
        temperature: of the token draws; 0 takes the most likely token.
        choice_temperature: noise in the order of revealing, falling to 0 with the last pass. 0:
            strictly by confidence, which tends to copy the frame before.
    """
    b, num_steps, _, n = noise.shape
    tokens = torch.full((b, n), mask_id, device=noise.device)
    for step, (for_token, for_order) in enumerate(noise.permute(1, 2, 0, 3), start=1):
        logits = predict(tokens).float()
        drawn = _draw(logits, temperature, for_token)
        if step == num_steps:
            return torch.where(tokens == mask_id, drawn, tokens)
        confidence = logits.log_softmax(dim=-1).gather(-1, drawn[..., None])[..., 0]
        if choice_temperature:
            fading = choice_temperature * (1 - step / num_steps)
            confidence = confidence + fading * _gumbel(for_order)
        stay_hidden = int(n * math.cos(math.pi / 2 * step / num_steps))
        tokens = _reveal(tokens, drawn, confidence, mask_id, stay_hidden)
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


def _reveal(
    tokens: Int[Tensor, "b n"],
    drawn: Int[Tensor, "b n"],
    confidence: Float[Tensor, "b n"],
    mask_id: int,
    stay_hidden: int,
) -> Int[Tensor, "b n"]:
    """Show all but the `stay_hidden` least confident of the hidden tokens."""
    hidden = tokens == mask_id
    ranked = confidence.masked_fill(~hidden, float("inf")).argsort(dim=-1)
    show = hidden.scatter(-1, ranked[:, :stay_hidden], False)
    return torch.where(show, drawn, tokens)
