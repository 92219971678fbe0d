"""How new frames are drawn: what a world's folder and a player say of it. Knows no nets."""

import math
from dataclasses import dataclass

from genie.errors import UserError

MOST_STEPS = 1024  # passes over a frame; nobody has more tokens, and their noise takes memory


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How new frames are drawn; found by free-running rollouts on held-out clips."""

    maskgit_steps: int = 8
    """Passes over a new frame at most."""
    temperature: float = 0.5
    """Of the token draws; 0 takes the most likely token."""
    choice_temperature: float = 0.0
    """Noise in the order in which tokens are revealed."""
    entropy_bound: float = 0.5
    """In nats for each token of a frame: beyond its share by MaskGIT's schedule, a pass reveals
    tokens, the surest first, until what they leave open sums up to so much, so that a frame which
    only scrolls takes fewer passes than one with news. 0: always all passes."""
    guidance: float = 1.5
    """1: logits as they are. Above: what the action changes in them is enlarged in the first pass,
    which then runs with and without the action, side by side; the others go by what it showed."""

    def __post_init__(self) -> None:
        if not 1 <= self.maskgit_steps <= MOST_STEPS:
            raise UserError(f"maskgit_steps is {self.maskgit_steps}: use 1 to {MOST_STEPS}")
        if not (0 <= self.temperature < math.inf and 0 <= self.choice_temperature < math.inf):
            raise UserError("a temperature is negative or no number: use 0 or more")
        if not 0 <= self.entropy_bound < math.inf:
            raise UserError(f"entropy_bound is {self.entropy_bound}: use 0 (none) or more")
        if not 1 <= self.guidance < math.inf:
            raise UserError(f"guidance is {self.guidance}: use 1 (none) or more")
