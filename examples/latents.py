"""What a world sees in pictures of a real game: latent actions, and the features behind them.

In: a world, and pictures by row. Out: numbers by row. Knows no files and no buttons.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from tqdm import tqdm

from genie.frames import to_float
from genie.world import World

Read = Callable[[int, int], UInt8[Tensor, "t 3 h w"]]
"""The pictures from one row to before another."""


def latent_actions(world: World, read: Read, starts: Sequence[int]) -> Int[Tensor, " rows"]:
    """The latent action that leads from each row to the next; -1 where a scene ends.

    Args:
        starts: the row at which each scene begins; then the number of rows.
    """
    infer = world.latent_action.infer
    seen = [F.pad(actions, (0, 1), value=-1) for actions in _of_scenes(world, infer, read, starts)]
    return torch.cat(seen)


def features(world: World, read: Read, starts: Sequence[int]) -> Float[Tensor, "rows f"]:
    """Features of the transitions from each row to the next, with those before and after it.

    A button is often seen only a moment after it was pressed, or while it stays pressed. Each
    feature has mean 0 and variance 1. Where a scene has no such transition, the nearest one counts.

    Args:
        starts: as above.
    """
    around = []
    for seen in _of_scenes(world, world.latent_action.features, read, starts):
        moment = torch.arange(len(seen) + 1)
        near = [(moment + shift).clamp(0, max(len(seen) - 1, 0)) for shift in (-1, 0, 1)]
        empty = seen.new_zeros(1, seen.shape[1])
        around.append(torch.cat([(seen if len(seen) else empty)[rows] for rows in near], dim=1))
    found = torch.cat(around)
    return (found - found.mean(dim=0)) / found.std(dim=0).clamp(min=1e-6)


@torch.inference_mode()
def _of_scenes(
    world: World,
    see: Callable[[Float[Tensor, "1 t 3 h w"]], Tensor],
    read: Read,
    starts: Sequence[int],
) -> Iterator[Tensor]:
    """What is seen in the transitions of each scene, one fewer than its rows."""
    for start, stop in tqdm(list(pairwise(starts)), desc="seen by the world", leave=False):
        frames = to_float(read(start, stop).to(world.device))
        yield see(frames[None])[0].cpu()
