"""How new frames are drawn: the settings, and the loop over MaskGIT's passes. Knows no nets."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from genie.errors import UserError

MOST_STEPS = 1024  # passes over a frame; more would only take memory for their noise


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How new frames are drawn; defaults found by free-running rollouts on held-out clips."""

    maskgit_steps: int = 8
    """Largest number of passes over a new frame."""
    temperature: float = 0.5
    """Of the token draws; 0 takes the most likely token."""
    choice_temperature: float = 0.0
    """Noise in the order in which tokens are revealed."""
    entropy_bound: float = 0.5
    """In nats per token of a frame. Beyond MaskGIT's schedule, a pass reveals tokens, the most
    confident first, until their entropies sum up to this times the number of tokens; a frame that
    only scrolls then takes fewer passes than one with new content. 0: always all passes."""
    guidance: float = 1.5
    """Factor by which the first pass enlarges the action's effect on the logits (classifier-free
    guidance); later passes follow the tokens that it revealed. 1: no guidance."""

    def __post_init__(self) -> None:
        if not 1 <= self.maskgit_steps <= MOST_STEPS:
            raise UserError(f"maskgit_steps is {self.maskgit_steps}: use 1 to {MOST_STEPS}")
        if not (0 <= self.temperature < math.inf and 0 <= self.choice_temperature < math.inf):
            raise UserError("a temperature is negative or not a number: use 0 or more")
        if not 0 <= self.entropy_bound < math.inf:
            raise UserError(f"entropy_bound is {self.entropy_bound}: use 0 (none) or more")
        if not 1 <= self.guidance < math.inf:
            raise UserError(f"guidance is {self.guidance}: use 1 (none) or more")

    def changed(self, maskgit_steps: int | None, temperature: float | None) -> "SamplingConfig":
        """A copy with these settings changed; None leaves one as it is.

        Raises:
            UserError: if a number is out of range.
        """
        given = {"maskgit_steps": maskgit_steps, "temperature": temperature}
        return replace(self, **{name: value for name, value in given.items() if value is not None})


class Pace(NamedTuple):
    """The settings of one pass over a frame."""

    num_hidden: Any
    """Tokens that the schedule lets stay hidden after the pass."""
    temperature: Any
    """Of the token draws; 0 takes the most likely token."""
    order_noise: Any
    """Noise in the order of revealing. 0: strictly by confidence."""
    entropy_bound: Any
    """In nats per token: beyond the schedule, a token is revealed if the entropies of the more
    confident ones sum up to less than this times n. 0: by the schedule alone."""
    guidance: Any
    """Factor by which the action's effect on the logits is enlarged. 1: no guidance."""


def fill_frame(
    one_pass: Callable[[Int[np.ndarray, "b n"], int, Pace], Int[np.ndarray, "b n"]],
    tokens: Int[np.ndarray, "b n"],
    mask_id: int,
    config: SamplingConfig,
) -> Int[np.ndarray, "b n"]:
    """Reveal all tokens of a frame in a few passes; each sees the tokens of those before it.

    After pass i of k a share cos(pi/2 * i/k) of the tokens is still hidden (MaskGIT, Chang et al.
    2022, arXiv:2202.04200). With an entropy bound a pass may reveal more than that, and there are
    no further passes once nothing is hidden.

    Args:
        one_pass: takes tokens, the number of the pass (from 0) and its pace; returns tokens.
        tokens: all `mask_id`.
    """
    num_steps = config.maskgit_steps
    for step in range(1, num_steps + 1):
        pace = Pace(
            num_hidden=np.int64(tokens.shape[1] * math.cos(math.pi / 2 * step / num_steps)),
            temperature=np.float32(config.temperature),
            order_noise=np.float32(config.choice_temperature * (1 - step / num_steps)),
            entropy_bound=np.float32(config.entropy_bound),
            guidance=np.float32(config.guidance if step == 1 else 1),
        )
        tokens = one_pass(tokens, step - 1, pace)
        if config.entropy_bound and not (tokens == mask_id).any():
            break
    return tokens
