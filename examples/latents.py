"""The latent actions that a world sees in pictures of a real game.

In: a world, and pictures by row. Out: numbers. Knows no files and no buttons.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from tqdm import tqdm

from genie.frames import to_float
from genie.world import World


@torch.inference_mode()
def latent_actions(
    world: World, read: Callable[[int, int], UInt8[Tensor, "t 3 h w"]], starts: Sequence[int]
) -> Int[Tensor, " rows"]:
    """The latent action that leads from each row to the next; -1 where a scene ends.

    Args:
        read: the pictures from one row to before another.
        starts: the row at which each scene begins; then the number of rows.
    """
    found = torch.full((starts[-1],), -1)
    for start, stop in tqdm(list(pairwise(starts)), desc="latent actions", leave=False):
        frames = to_float(read(start, stop).to(world.device))
        found[start : stop - 1] = world.latent_action.infer(frames[None])[0].cpu()
    return found
