"""MaskGIT: reveal the tokens of one frame in a few parallel passes.

In: a function from partly hidden tokens to logits. Out: tokens. Knows no network and no frames.

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
    batch_size: int,
    num_tokens: int,
    mask_id: int,
    num_steps: int,
    temperature: float,
    choice_temperature: float,
    generator: torch.Generator,
) -> Int[Tensor, "b n"]:
    """Sample all tokens of a frame; each pass sees what the passes before it chose.

    After pass k of K a share cos(pi/2 * k/K) of the tokens is still hidden; the most confident
    ones are kept. A revealed token never changes.

    Args:
        predict: tokens, hidden ones being `mask_id`, to logits.
        batch_size: frames filled side by side.
        num_tokens: tokens in a frame.
        mask_id: the id that stands for "hidden".
        num_steps: passes K, 1 or more.
        temperature: of the token draws; 0 takes the most likely token.
        choice_temperature: noise in the order of revealing, falling to 0 with the last pass. 0:
            strictly by confidence, which tends to copy the frame before.
        generator: the only source of randomness.
    """
    device = generator.device
    tokens = torch.full((batch_size, num_tokens), mask_id, device=device)
    for step in range(1, num_steps + 1):
        logits = predict(tokens).float()
        hidden = tokens == mask_id
        drawn = _draw(logits, temperature, generator)
        confidence = logits.log_softmax(dim=-1).gather(-1, drawn[..., None])[..., 0]
        noise = choice_temperature * (1 - step / num_steps)
        confidence = confidence + noise * _gumbel(confidence, generator)
        stay_hidden = int(num_tokens * math.cos(math.pi / 2 * step / num_steps))
        if step == num_steps:
            stay_hidden = 0
        tokens = _reveal(tokens, drawn, confidence, hidden, stay_hidden)
    return tokens


def _draw(logits: Float[Tensor, "b n v"], temperature: float, generator: torch.Generator) -> Tensor:
    if temperature == 0:
        return logits.argmax(dim=-1)
    return (logits / temperature + _gumbel(logits, generator)).argmax(dim=-1)


def _gumbel(like: Tensor, generator: torch.Generator) -> Tensor:
    uniform = torch.rand(like.shape, generator=generator, device=like.device)
    return -(-uniform.clamp(1e-9, 1 - 1e-7).log()).log()


def _reveal(
    tokens: Int[Tensor, "b n"],
    drawn: Int[Tensor, "b n"],
    confidence: Float[Tensor, "b n"],
    hidden: Tensor,
    stay_hidden: int,
) -> Int[Tensor, "b n"]:
    """Show all but the `stay_hidden` least confident of the hidden tokens."""
    ranked = confidence.masked_fill(~hidden, float("inf")).argsort(dim=-1)
    show = hidden.clone().scatter_(-1, ranked[:, :stay_hidden], False)
    return torch.where(show, drawn, tokens)
