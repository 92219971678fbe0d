"""Export a world to onnxruntime, which plays it without a GPU: `python -m train.graphs WORLD`.

In: a checkpoint folder. Out: graphs in the same folder, whose frames were compared with PyTorch's.
With them a world starts without PyTorch, in a second.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from genie.errors import UserError
from genie.files import check_folder
from genie.graphs import export
from genie.onnx_engine import CARD
from genie.playable import GraphWorld, open_world
from genie.session import Sessions
from genie.torch_engine import TorchEngine
from genie.world import World
from train.errors import one_line_errors

NUM_FRAMES = 16
MOST_APART = 2  # of 255: both engines compute in float32 and round the pixels to whole numbers


@dataclass(frozen=True, kw_only=True)
class GraphsConfig:
    """Make the graphs of a world."""

    world: tyro.conf.Positional[Path]
    """Checkpoint folder of the world."""


def main(config: GraphsConfig) -> None:
    """Write the graphs, and compare their frames with PyTorch's.

    Raises:
        UserError: if the folder is no world or cannot be written, or if the graphs give other
            frames than PyTorch; their card is then deleted, so that they are not used.
    """
    folder = check_folder(config.world)
    world = World.from_pretrained(folder).cpu()
    export(world, folder)
    made = open_world(folder, "onnxruntime")
    assert isinstance(made, GraphWorld)
    apart = farthest_apart(world, made)
    if apart > MOST_APART:
        (folder / CARD).unlink()
        raise UserError(
            f"the graphs of {folder} give other frames than PyTorch (by {apart} of 255): "
            "they are not used"
        )
    print(f"graphs written to {folder}; {NUM_FRAMES} frames are PyTorch's within {apart} of 255")


def farthest_apart(world: World, made: GraphWorld) -> int:
    """The largest difference of a pixel, 0..255, in rollouts from noise through all actions.

    If the world has a prior, every other action is one that it chooses.
    """
    rng = np.random.default_rng(0)
    prompts = rng.integers(256, size=(2, 1, 3, *world.size), dtype=np.uint8)
    exact = TorchEngine(world.float(), world.sampling, exact=True)
    runs = [Sessions(engine, prompts, [0, 1], world.sampling) for engine in (exact, made.engine)]
    farthest = 0
    for step in range(NUM_FRAMES):
        actions = np.array([step, step + 1]) % world.num_actions
        chosen = [
            running.choose(np.ones((2, world.num_actions)))
            if world.has_prior and step % 2
            else actions
            for running in runs
        ]
        pairs = zip(runs, chosen, strict=True)
        one, other = (running.step(actions).astype(int) for running, actions in pairs)
        farthest = max(farthest, int(np.abs(one - other).max()))
    return farthest


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(GraphsConfig, description=__doc__))
