"""Legend: what holding each latent action does on the screen, and the key that it gets.

In: a world and prompt frames. Out: one `Effect` an action, and names of keys for them. Latent
actions come without names; these are measured on the world's own free-running rollouts, so no label
is needed. Knows no keyboard: keys have names here.
"""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from genie import metrics, video
from genie.checkpoint import write_whole

FILE_NAME = "legend.json"
HELD_STEPS = 8
MOVED = 3  # pixels in all over HELD_STEPS frames from which on a view counts as moved
ROLLED_AT_ONCE = 32
ENOUGH = 0.25  # of the prompts must agree before an arrow gets an action


@runtime_checkable
class Rollable(Protocol):
    """What a legend is measured on: a `World`, or anything else that can be rolled out."""

    num_actions: int

    def rollout(
        self, prompt: UInt8[Tensor, "b t 3 h w"], actions: Int[Tensor, "b s"], *, seed: int
    ) -> UInt8[Tensor, "b s 3 h w"]:
        """See `World.rollout`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What the view does while one latent action is held, over several prompts."""

    median_dx: float
    """Pixels in all; right is positive."""
    median_dy: float
    """Pixels in all; up is positive."""
    right: float
    """Share of the prompts from which the view ends up to the right."""
    left: float
    """Likewise."""
    up: float
    """Share of the prompts from which it gets up; a jump that has landed is still a jump."""
    still: float
    """Share of the prompts from which it stays: none of these, and not down."""


def hold_actions(
    world: Rollable, prompts: UInt8[Tensor, "p 3 h w"], num_steps: int, seed: int
) -> UInt8[Tensor, "p a t 3 h w"]:
    """From every prompt, the prompt and `num_steps` frames under each held action, on the CPU."""
    num_actions = world.num_actions
    starts = repeat(prompts, "p c h w -> (p a) c h w", a=num_actions)
    held = repeat(torch.arange(num_actions), "a -> (p a) s", p=len(prompts), s=num_steps)
    parts = zip(starts.split(ROLLED_AT_ONCE), held.split(ROLLED_AT_ONCE), strict=True)
    frames = [
        world.rollout(start[:, None], actions, seed=seed + number).cpu()
        for number, (start, actions) in enumerate(parts)
    ]
    films = torch.cat([starts[:, None], torch.cat(frames)], dim=1)
    return rearrange(films, "(p a) t c h w -> p a t c h w", a=num_actions)


def scrolls(films: UInt8[Tensor, "p a t 3 h w"]) -> Int[Tensor, "p a t-1 2"]:
    """Motion of the view between neighbouring frames, (dx, dy) in pixels, right and up positive."""
    shifts = [
        metrics.scroll(video.to_float(film[:-1]), video.to_float(film[1:]))
        for film in films.flatten(0, 1)
    ]
    return rearrange(shifts, "(p a) s xy -> p a s xy", p=len(films))


def effects(shifts: Int[Tensor, "p a s 2"]) -> list[Effect]:
    """One effect an action."""
    return [_effect(of_action.double()) for of_action in shifts.unbind(1)]


def assign_keys(effects: Sequence[Effect]) -> dict[str, int]:
    """The latent action of each arrow and chord for which there is a likely one, by its name.

    Names: left, right, up, down, left_up, right_up, none. An arrow along the ground wants motion
    that neither jumps nor falls; "up" the jump that goes least to a side.
    """
    numbered = list(enumerate(effects))
    # Prompts in mid-air fall whatever is held, so a fall is what falls further than most.
    usual = statistics.median(e.median_dy for e in effects)
    falls = [(action, e) for action, e in numbered if e.median_dy - usual <= -2 * MOVED]
    jumps = [(action, e) for action, e in numbered if e.up >= 0.5 and e.median_dy - usual >= MOVED]
    walks = [pair for pair in numbered if pair not in jumps and pair not in falls]
    keys: dict[str, int] = {}
    for name, sign, share in (("left", -1, "left"), ("right", 1, "right")):
        ranked = sorted(walks, key=lambda pair: (sign * pair[1].median_dx, getattr(pair[1], share)))
        if ranked and getattr(ranked[-1][1], share) >= ENOUGH:
            keys[name] = ranked[-1][0]
        sideways = [pair for pair in jumps if sign * pair[1].median_dx >= MOVED]
        if sideways:
            keys[f"{name}_up"] = max(sideways, key=lambda pair: sign * pair[1].median_dx)[0]
    if jumps:
        keys["up"] = min(jumps, key=lambda pair: abs(pair[1].median_dx))[0]
    if falls:
        keys["down"] = min(falls, key=lambda pair: pair[1].median_dy)[0]
    rests = [(e.still, action) for action, e in numbered if action not in keys.values()]
    if rests and max(rests)[0] >= ENOUGH:
        keys["none"] = max(rests)[1]
    return keys


def write_legend(
    world: Rollable, prompts: UInt8[Tensor, "p 3 h w"], folder: Path
) -> dict[str, int]:
    """Measure a world's legend and write it into its checkpoint folder; gives the keys."""
    shifts = scrolls(hold_actions(world, prompts, HELD_STEPS, seed=0))
    measured = effects(shifts)
    keys = assign_keys(measured)
    legend = {
        "keys": keys,
        "num_prompts": len(prompts),
        "held_frames": HELD_STEPS,
        "actions": [asdict(effect) for effect in measured],
    }
    write_whole(folder / FILE_NAME, json.dumps(legend, indent=1) + "\n")
    return keys


def _effect(shifts: Float[Tensor, "p s 2"]) -> Effect:
    dx, dy = shifts.sum(dim=1).unbind(1)
    highest = shifts[..., 1].cumsum(dim=1).amax(dim=1)
    right, left, up = dx >= MOVED, dx <= -MOVED, highest >= MOVED
    still = ~(right | left | up | (dy <= -MOVED))
    shares = {"right": right, "left": left, "up": up, "still": still}
    return Effect(
        median_dx=dx.quantile(0.5).item(),
        median_dy=dy.quantile(0.5).item(),
        **{name: share.double().mean().item() for name, share in shares.items()},
    )
