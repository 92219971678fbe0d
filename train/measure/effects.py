"""The effect of holding each latent action, and the name and the key that the action gets from it.

In: a world and prompt frames. Out: one `Effect` per action, keys, and the world's legend. Effects
are measured on the world's own free-running rollouts, so that no labels are needed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from genie import legend, video
from genie.frames import to_float, to_pictures
from genie.world import World
from train.measure import metrics

HELD_STEPS = 8
STRIP_EVERY = 2  # frames between two pictures of a strip
MOVED = 3  # total scroll in pixels from which on the view counts as moved
ROLLED_AT_ONCE = 32
CLEAR = 0.8  # least agreement for a name without "mostly"
LIKELY = 0.5  # least agreement for a name with "mostly", and for an arrow key
FEWEST_PROMPTS = 0.1  # least share of prompts that leave room for an outcome, for it to count
SLOW = 2 / 3  # speed below which an action is slow, relative to the fastest of the same name
LETTERS = "zxcbnjkluiyefq"
"""Keys of the actions without an arrow, in this order."""
OUTCOMES = ("left", "right", "up", "down", "still")


@runtime_checkable
class Rollable(Protocol):
    """What a legend can be measured on: a `World`, or anything else with these two members."""

    @property
    def num_actions(self) -> int:
        """See `World`."""
        ...

    def rollout(
        self, prompt: UInt8[Tensor, "b t 3 h w"], actions: Int[Tensor, "b s"], *, seed: int
    ) -> UInt8[Tensor, "b s 3 h w"]:
        """See `World.rollout`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Effect:
    """How the view moves while one latent action is held, over several prompts."""

    name: str
    """Such as "left", "up", "slow right, rising" or "stay"; "mostly ..." if it agrees with less
    than 80 % of the prompts, "unclear" if with less than 50 %."""
    agreement: float
    """Smallest of the `agreements` of the outcomes in the name; the largest of all if "unclear"."""
    agreements: Mapping[str, float]
    """For each of `OUTCOMES`: the share of prompts from which this action has it, among those from
    which any action has it or this one has the opposite. (At a wall on the left nothing goes left,
    so that such prompts do not count against "left".)"""
    median_dx: float
    """Median over the prompts of the total scroll in pixels; right is positive."""
    median_dy: float
    """Likewise; up is positive."""
    right: float
    """Share of all prompts from which the view ends further right."""
    left: float
    """Likewise."""
    up: float
    """Share of all prompts from which it rises, even if it falls again."""
    down: float
    """Share of all prompts from which it falls further than under the median action."""
    still: float
    """Share of all prompts from which none of these happens."""


def hold_actions(
    world: Rollable, prompts: UInt8[Tensor, "p 3 h w"], num_steps: int, seed: int
) -> UInt8[Tensor, "p a t 3 h w"]:
    """Hold each action from each prompt: the prompt and `num_steps` frames, on the CPU."""
    num_actions = world.num_actions
    starts = repeat(prompts, "p c h w -> (p a) c h w", a=num_actions)
    held = repeat(torch.arange(num_actions), "a -> (p a) s", p=len(prompts), s=num_steps)
    parts = zip(starts.split(ROLLED_AT_ONCE), held.split(ROLLED_AT_ONCE), strict=True)
    frames = [
        world.rollout(start[:, None], actions, seed=seed + number).cpu()
        for number, (start, actions) in enumerate(parts)
    ]
    clips = torch.cat([starts[:, None], torch.cat(frames)], dim=1)
    return rearrange(clips, "(p a) t c h w -> p a t c h w", a=num_actions)


def hold_keys(
    world: World,
    prompts: UInt8[Tensor, "p 3 h w"],
    wishes: Mapping[str, Sequence[float]],
    num_steps: int,
    seed: int,
) -> UInt8[Tensor, "p k t 3 h w"]:
    """Hold each key that is a wish from each prompt, as `hold_actions` does with actions."""
    starts = repeat(prompts, "p c h w -> (p k) c h w", k=len(wishes))
    weights = np.tile(np.array(list(wishes.values())), (len(prompts), 1))
    clips = []
    for number, rows in enumerate(torch.arange(len(starts)).split(ROLLED_AT_ONCE)):
        seeds = [seed + number + 2**32 * row for row in range(len(rows))]
        running = world.start_many(starts[rows][:, None], seeds=seeds)
        frames = [running.step(running.choose(weights[rows.numpy()])) for _ in range(num_steps)]
        clips.append(torch.from_numpy(np.stack(frames, axis=1)))
    held = torch.cat([starts[:, None], torch.cat(clips)], dim=1)
    return rearrange(held, "(p k) t c h w -> p k t c h w", k=len(wishes))


def scrolls(clips: UInt8[Tensor, "p a t 3 h w"]) -> Int[Tensor, "p a t-1 2"]:
    """Motion of the view between neighbouring frames, (dx, dy) in pixels, right and up positive."""
    shifts = [
        metrics.scroll(to_float(clip[:-1]), to_float(clip[1:])) for clip in clips.flatten(0, 1)
    ]
    return rearrange(shifts, "(p a) s xy -> p a s xy", p=len(clips))


def effects(shifts: Int[Tensor, "p a s 2"]) -> list[Effect]:
    """One effect per action; whether its name says "slow" depends on the other actions."""
    done = outcomes(shifts)
    shares, agreements = (
        [dict(zip(OUTCOMES, of_action, strict=True)) for of_action in figures.tolist()]
        for figures in (done.double().mean(dim=0), _agreements(done))
    )
    medians = shifts.sum(dim=2).double().quantile(0.5, dim=0)
    named = [_name(agreement) for agreement in agreements]
    names = _with_speeds([name for name, _ in named], medians[:, 0].abs().tolist())
    return [
        Effect(
            name=names[action],
            agreement=agreement,
            agreements=agreements[action],
            median_dx=dx,
            median_dy=dy,
            **shares[action],
        )
        for action, ((_, agreement), (dx, dy)) in enumerate(
            zip(named, medians.tolist(), strict=True)
        )
    ]


def outcomes(shifts: Int[Tensor, "p a s 2"]) -> Bool[Tensor, "p a 5"]:
    """Whether each of `OUTCOMES` happens, for each prompt and action."""
    dx, dy = shifts.sum(dim=2).unbind(-1)
    highest = shifts[..., 1].cumsum(dim=2).amax(dim=2)
    # In mid-air the view falls under every action: only what falls further counts as down.
    usual = dy.double().quantile(0.5, dim=1, keepdim=True)
    left, right, up, down = dx <= -MOVED, dx >= MOVED, highest >= MOVED, dy - usual <= -MOVED
    return torch.stack([left, right, up, down, ~(left | right | up | down)], dim=-1)


def assign_keys(effects: Sequence[Effect]) -> dict[str, int]:
    """The latent action of each key: arrows, chords and "none" if one fits, letters for the rest.

    An arrow gets the action that most often does what the arrow says, among those that do so more
    often than they move across it.
    """
    keys: dict[str, int] = {}

    def best(name: str, wanted: Sequence[str], unwanted: Sequence[str]) -> None:
        """Give `name` to the free action that most often does all `wanted`, if one is likely to."""
        scores = {}
        for action, of in enumerate(effect.agreements for effect in effects):
            likely = min(of[word] for word in wanted)
            if likely >= LIKELY and all(of[word] < likely for word in unwanted):
                scores[action] = likely, abs(effects[action].median_dx), -action
        taken = scores.keys() & keys.values()
        if scores.keys() - taken:
            keys[name] = max(scores.keys() - taken, key=scores.__getitem__)

    best("left", ["left"], ["up"])
    best("right", ["right"], ["up"])
    best("up", ["up"], ["left", "right"])
    best("down", ["down"], ["left", "right", "up"])
    best("left_up", ["left", "up"], [])
    best("right_up", ["right", "up"], [])
    best("none", ["still"], [])
    left_over = [action for action in range(len(effects)) if action not in keys.values()]
    return keys | dict(zip(LETTERS, left_over, strict=False))


def write_legend(
    world: Rollable, prompts: UInt8[Tensor, "p 3 h w"], folder: Path
) -> tuple[list[Effect], dict[str, int]]:
    """Measure a world's legend and write it into `folder`; return the effects and the keys.

    Raises:
        UserError: if the folder cannot be written.
    """
    clips = hold_actions(world, prompts, HELD_STEPS, seed=0)
    shifts = scrolls(clips)
    measured = effects(shifts)
    keys = assign_keys(measured)
    strip = _strip(clips[_most_typical(outcomes(shifts))])
    video.write_image(folder / legend.STRIP_NAME, to_pictures(strip))
    facts = {"num_prompts": len(prompts), "held_frames": HELD_STEPS}
    legend.save(folder, keys, [asdict(effect) for effect in measured], **facts)
    return measured, keys


def _agreements(done: Bool[Tensor, "p a 5"]) -> Float[Tensor, "a 5"]:
    """Share of prompts with each outcome, see `Effect.agreements`."""
    left, right, up, down, still = done.unbind(-1)
    opposite = torch.stack([right, left, down, up, ~still], dim=-1)
    counted = done.any(dim=1, keepdim=True) | opposite
    share = done.double().sum(dim=0) / counted.double().sum(dim=0).clamp(min=1)
    return torch.where(counted.double().mean(dim=0) >= FEWEST_PROMPTS, share, 0.0)


def _name(agreement: dict[str, float]) -> tuple[str, float]:
    across = max("left", "right", key=agreement.__getitem__)
    clear = [word for word in (across, "up", "down") if agreement[word] >= CLEAR]
    if clear:
        climbs = {"up": "rising", "down": "falling"} if len(clear) > 1 else {}
        words = [climbs.get(word, word) for word in clear]
        return ", ".join(words), min(agreement[word] for word in clear)
    best = max(OUTCOMES, key=agreement.__getitem__)
    word = "stay" if best == "still" else best
    if agreement[best] >= CLEAR:
        return word, agreement[best]
    return (f"mostly {word}" if agreement[best] >= LIKELY else "unclear"), agreement[best]


def _with_speeds(names: Sequence[str], speeds: Sequence[float]) -> list[str]:
    """Mark actions as slow that go sideways much slower than the fastest of the same name."""
    sideways = [name.startswith(("left", "right")) for name in names]
    fastest = {
        name: max(speed for other, speed in zip(names, speeds, strict=True) if other == name)
        for name in names
    }
    return [
        f"slow {name}" if moves and speed < SLOW * fastest[name] else name
        for name, speed, moves in zip(names, speeds, sideways, strict=True)
    ]


def _most_typical(done: Bool[Tensor, "p a 5"]) -> int:
    """The prompt from which the outcomes are closest to their means over all prompts."""
    usual = done.double().mean(dim=0)
    return int((done.double() - usual).abs().sum(dim=(1, 2)).argmin())


def _strip(clips: UInt8[Tensor, "a t 3 h w"]) -> UInt8[Tensor, "3 H W"]:
    return rearrange(clips[:, ::STRIP_EVERY], "a t c h w -> c (a h) (t w)")
