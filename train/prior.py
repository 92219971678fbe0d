"""Add an action prior to a finished world: `python -m train.prior WORLD DATA`.

In: a world and the prepared videos that it was learnt from. Out: `prior.safetensors` and a new
`config.json` in the world's folder. Targets are the actions that the world's own latent action
model infers, so that no labels are needed. No frame of the world changes; keys become wishes, see
`genie.prior`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from genie.checkpoint import save_weights
from genie.data.clips import Clips, FrameStore
from genie.errors import UserError
from genie.files import check_folder, writing
from genie.frames import to_float
from genie.places import find_world
from genie.prior import NUM_FRAMES, ActionPrior, PriorConfig
from genie.world import World, write_config
from train.errors import one_line_errors
from train.measure.rollouts import check_sizes
from train.stage import make_graphs

CLIP_FRAMES = 16  # fewer if no scene is that long
SEED = 0
NUM_TESTED = 64  # batches of held-out clips


@dataclass(frozen=True, kw_only=True)
class PriorTraining:
    """Train an action prior for a world."""

    world: tyro.conf.Positional[Path]
    """Checkpoint folder of the world, which gets the prior; one that it has is replaced."""
    data: tyro.conf.Positional[str]
    """Folder made by train.prepare."""
    steps: int = 1000
    """Training steps."""
    batch_size: int = 12
    """Clips per step, of up to 16 frames each."""
    learning_rate: float = 1e-3
    """Highest learning rate."""
    weight_decay: float = 0.05
    """Weight decay of AdamW."""
    dim: int = 32
    """Width of the net."""


def main(config: PriorTraining) -> dict[str, float]:
    """Train, write the prior into the world's folder, and return the held-out metrics.

    Raises:
        UserError: if a number is out of range, or the world or the videos do not fit.
    """
    if config.steps < 1 or config.batch_size < 1:
        raise UserError("--steps and --batch-size must be at least 1")
    if config.learning_rate <= 0 or config.weight_decay < 0:
        raise UserError("--learning-rate must be above 0, --weight-decay not below")
    folder = check_folder(find_world(config.world))
    world = World.from_pretrained(folder)
    stores = [FrameStore.open(config.data, split) for split in ("train", "heldout")]
    for store in stores:
        check_sizes(world, store)
    height, width = world.size
    shape = PriorConfig(height=height, width=width, num_actions=world.num_actions, dim=config.dim)
    torch.manual_seed(SEED)
    prior = ActionPrior(shape).to(world.device)
    fit(prior, world, stores[0], config)
    metrics = held_out(prior, world, stores[1], config)
    print(
        f"held out: cross-entropy {metrics['cross_entropy']:.3f} nats "
        f"(without seeing frames {metrics['marginal']:.3f}), accuracy {metrics['accuracy']:.3f}"
    )
    with writing(folder):
        # Between the two, the world has none: it opens, whenever this is stopped.
        write_config(replace(world.config, prior=None), folder)
        save_weights(prior, folder / "prior.safetensors", torch.float16)
        write_config(replace(world.config, prior=shape), folder)
    make_graphs(folder)  # those of before know of no prior
    return metrics


def fit(prior: ActionPrior, world: World, store: FrameStore, config: PriorTraining) -> None:
    """Side effect: the prior is trained."""
    optimizer = torch.optim.AdamW(
        prior.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, config.steps)
    batches = labelled_batches(world, store, config.batch_size, config.steps)
    bar = tqdm(batches, total=config.steps, desc="prior", disable=None)
    prior.train()
    for frames, actions in bar:
        loss, metrics = prior(frames, actions)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        bar.set_postfix({name: f"{float(value):.3f}" for name, value in metrics.items()})


@torch.no_grad()
def held_out(
    prior: ActionPrior, world: World, store: FrameStore, config: PriorTraining
) -> dict[str, float]:
    """Means of `ActionPrior.forward`'s metrics, and the entropy of the actions by themselves.

    The latter, `marginal`, is what a prior that sees nothing would reach.
    """
    prior.eval()
    found, counts = [], torch.zeros(world.num_actions, dtype=torch.float64)
    for frames, actions in labelled_batches(world, store, config.batch_size, NUM_TESTED):
        found.append(prior(frames, actions)[1])
        counts += torch.bincount(actions.cpu().flatten(), minlength=world.num_actions)
    means = {name: sum(float(each[name]) for each in found) / len(found) for name in found[0]}
    return means | {"marginal": torch.special.entr(counts / counts.sum()).sum().item()}


@torch.no_grad()
def labelled_batches(
    world: World, store: FrameStore, batch_size: int, count: int
) -> Iterator[tuple[Float[Tensor, "b t 3 h w"], Int[Tensor, "b t-1"]]]:
    """Random clips, frames in 0..1, with the actions inferred from their pixels.

    What the latent action model would see of the frames before a clip matters to its first actions,
    which are not asked for (to more of them if it sees more than two, as the paper's does).
    """
    longest = int(np.diff(store.scene_starts).max())
    clips = Clips(store, max(NUM_FRAMES + 1, min(CLIP_FRAMES, longest)))
    generator = torch.Generator().manual_seed(SEED)
    for _ in range(count):
        numbers = torch.randint(len(clips), (batch_size,), generator=generator).tolist()
        frames = to_float(torch.stack([clips[number] for number in numbers]).to(world.device))
        yield frames, world.latent_action.infer(frames)


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(PriorTraining, description=__doc__))
