"""Measure again what each latent action of a world does: `python -m train.legend WORLD DATA`.

In: a world and held-out videos. Out: `legend.json` and `legend.png` in the world's folder, and a
table. With --true-actions, the table also says which buttons were pressed where each action was
inferred; they do not change the legend. If the world has an action prior, a second table says what
holding each key that is a wish does.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from jaxtyping import Bool
from torch import Tensor

from genie import legend
from genie.data.clips import FrameStore
from genie.errors import UserError
from genie.files import check_folder
from genie.world import World
from train.dynamics import LEGEND_PROMPTS, draw_prompts
from train.errors import one_line_errors
from train.measure.effects import (
    HELD_STEPS,
    OUTCOMES,
    Effect,
    hold_keys,
    outcomes,
    scrolls,
    write_legend,
)
from train.measure.rollouts import check_sizes
from train.measure.true_actions import Meeting, TrueActions, meetings

HORIZON = 15


@dataclass(frozen=True, kw_only=True)
class LegendConfig:
    """Measure what each latent action does; write the world's legend."""

    world: tyro.conf.Positional[Path]
    """Checkpoint folder of the world."""
    data: tyro.conf.Positional[Path]
    """Folder made by train.prepare; only its held-out videos are read."""
    prompts: int = LEGEND_PROMPTS
    """Number of held-out frames from which every action is held."""
    out: Path | None = None
    """Folder for legend.json and legend.png; default the world's own, whose legend it replaces."""
    true_actions: Path | None = None
    """true_actions.npz of the recording, to print which buttons were pressed for each action."""


@torch.no_grad()
def main(config: LegendConfig) -> None:
    """Write the legend and print it.

    Raises:
        UserError: if a file or a flag does not fit, or the world's folder cannot be written.
    """
    if config.prompts < 1:
        raise UserError(f"--prompts is {config.prompts}: give at least 1")
    out = check_folder(config.out or config.world)
    world = World.from_pretrained(config.world)
    store = FrameStore.open(config.data, "heldout")
    check_sizes(world, store)
    truth = TrueActions.open(config.true_actions) if config.true_actions else None
    met = meetings(world, store, truth, HORIZON) if truth else None
    prompts = draw_prompts(store, config.prompts)
    out.mkdir(parents=True, exist_ok=True)
    effects, keys = write_legend(world, prompts, out)
    print(table(effects, keys, met))
    own = legend.Legend.load(out, world.num_actions)
    if world.has_prior and own and own.wishes:
        clips = hold_keys(world, prompts, own.wishes, HELD_STEPS, seed=0)
        print(key_table(list(own.wishes), outcomes(scrolls(clips))))
    print(f"written to {out}: {legend.FILE_NAME}, {legend.STRIP_NAME}")


def table(
    effects: list[Effect], keys: dict[str, int], met: dict[int, Meeting] | None = None
) -> str:
    """One line per action: key, name, agreement and, where they are known, the true buttons."""
    head = f"{'action':<8}{'key':<10}{'name':<24}{'agreement':>9}"
    lines = [head + ("   true buttons" if met else "")]
    for action, effect in enumerate(effects):
        bound = "/".join(key for key, other in keys.items() if other == action)
        line = f"{action:<8}{bound:<10}{effect.name:<24}{effect.agreement:>9.0%}"
        lines.append(line + (f"   {met[action]}" if met else ""))
    return "\n".join(lines)


def key_table(keys: list[str], done: Bool[Tensor, "p k 5"]) -> str:
    """One line per key that is a wish: how often holding it moves the view which way.

    Not down, which everybody goes in mid-air.
    """
    ways = OUTCOMES[:3]
    none_of_them = ~done[..., :3].any(dim=-1, keepdim=True)
    told = torch.cat([done[..., :3], none_of_them], dim=-1).double().mean(dim=0)
    lines = [f"{'held key':<12}" + "".join(f"{way:>12}" for way in (*ways, "none of them"))]
    for key, shares in zip(keys, told.tolist(), strict=True):
        lines.append(f"{key:<12}" + "".join(f"{share:>12.0%}" for share in shares))
    return "\n".join(lines)


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(LegendConfig, description=__doc__))
