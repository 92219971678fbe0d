"""What holding each latent action does on the screen, its name, and the key that it gets.

In: a world and prompt frames. Out: one `Effect` an action, keys, and the world's legend. Latent
actions come without names; these are measured on the world's own free-running rollouts, so no label
is needed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from genie import legend, video
from genie.frames import to_float, to_pictures
from train.measure import metrics

HELD_STEPS = 8
STRIP_EVERY = 2  # frames between two pictures of a strip
MOVED = 3  # pixels in all over HELD_STEPS frames from which on a view counts as moved
ROLLED_AT_ONCE = 32
CLEAR = 0.8  # agreement from which on an action has a name
LIKELY = 0.5  # agreement from which on it has at least a guess, and may get an arrow
FEWEST_PROMPTS = 0.1  # share of prompts from which something must be possible before it is a name
SLOW = 2 / 3  # of the fastest that goes by the same name
LETTERS = "zxcbnjkluiyefq"
"""Keys of the actions that no arrow has, in this order."""
OUTCOMES = ("left", "right", "up", "down", "still")


@runtime_checkable
class Rollable(Protocol):
    """What a legend is measured on: a `World`, or anything else that can be rolled out."""

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
    """What the view does while one latent action is held, over several prompts."""

    name: str
    """Such as "left", "up", "slow right, rising" or "stay"; "mostly ..." or "unclear" if it does
    not do the same from 80 % of the prompts."""
    agreement: float
    """With what the name says."""
    agreements: Mapping[str, float]
    """For each of `OUTCOMES`: of the prompts from which any action has it, or this one has the
    opposite, the share from which this one has it. (At a wall on the left, nothing goes left.)"""
    median_dx: float
    """Pixels in all; right is positive."""
    median_dy: float
    """Pixels in all; up is positive."""
    right: float
    """Share of all prompts from which the view ends up to the right."""
    left: float
    """Likewise."""
    up: float
    """Share of all prompts from which it gets up; a jump that has landed is still a jump."""
    down: float
    """Share of all prompts from which it falls further than under most actions."""
    still: float
    """Share of all prompts from which it does none of these."""


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
        metrics.scroll(to_float(film[:-1]), to_float(film[1:])) for film in films.flatten(0, 1)
    ]
    return rearrange(shifts, "(p a) s xy -> p a s xy", p=len(films))


def effects(shifts: Int[Tensor, "p a s 2"]) -> list[Effect]:
    """One effect an action, named beside the others."""
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
    """Whether from each prompt each action does each of `OUTCOMES`."""
    dx, dy = shifts.sum(dim=2).unbind(-1)
    highest = shifts[..., 1].cumsum(dim=2).amax(dim=2)
    # From mid-air the view falls whatever is held.
    usual = dy.double().quantile(0.5, dim=1, keepdim=True)
    left, right, up, down = dx <= -MOVED, dx >= MOVED, highest >= MOVED, dy - usual <= -MOVED
    return torch.stack([left, right, up, down, ~(left | right | up | down)], dim=-1)


def assign_keys(effects: Sequence[Effect]) -> dict[str, int]:
    """The latent action of each arrow and chord for which there is a likely one, by its name.

    Names: left, right, up, down, left_up, right_up, none; actions that are left over get letters.
    An arrow gets the action that agrees best with it and least with the arrows across it.
    """
    keys: dict[str, int] = {}

    def best(name: str, wanted: Sequence[str], unwanted: Sequence[str]) -> None:
        """Give `name` to an action that does all that is wanted, and nothing unwanted as well."""
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
    """Measure a world's legend and write it into its checkpoint folder; gives effects and keys.

    Raises:
        UserError: if the folder cannot be written.
    """
    films = hold_actions(world, prompts, HELD_STEPS, seed=0)
    shifts = scrolls(films)
    measured = effects(shifts)
    keys = assign_keys(measured)
    strip = _strip(films[_most_typical(outcomes(shifts))])
    video.write_image(folder / legend.STRIP_NAME, to_pictures(strip))
    facts = {"num_prompts": len(prompts), "held_frames": HELD_STEPS}
    legend.save(folder, keys, [asdict(effect) for effect in measured], **facts)
    return measured, keys


def _agreements(done: Bool[Tensor, "p a 5"]) -> Float[Tensor, "a 5"]:
    """Share of the prompts that leave room for an outcome, or show the opposite, that have it."""
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
    """Say which of the actions that go by one name is slow."""
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
    """The prompt from which the actions do most nearly what they do from most prompts."""
    usual = done.double().mean(dim=0)
    return int((done.double() - usual).abs().sum(dim=(1, 2)).argmin())


def _strip(film: UInt8[Tensor, "a t 3 h w"]) -> UInt8[Tensor, "3 H W"]:
    return rearrange(film[:, ::STRIP_EVERY], "a t c h w -> c (a h) (t w)")
