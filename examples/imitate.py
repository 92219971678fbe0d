"""Learn to play from videos without labels, then from a few labels which button does what.

In: a world, the recording of an expert's videos, and the real game for the score. Out: a table, and
the same as `imitation.json` and as a plot, `imitation.png`.

    python examples/imitate.py --world checkpoints/coinrun --expert data/coinrun-expert \
        --out runs/coinrun-imitation

A world names the latent action between each two frames; a clone learns which one the expert takes.
Some labelled transitions then tell the buttons. Beside it: an oracle, the same clone trained on all
true buttons; a clone trained on nothing but those few labels; random buttons; with --player, the
expert itself.

Source: Genie (Bruce et al. 2024, arXiv:2402.15391), section 3.3.
"""

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import tyro
from arena import Arena, read_recording
from cloning import Clone, ClonePlayer, Demonstrations, fit
from jaxtyping import Int
from latents import latent_actions
from mapping import Dictionary
from outcome import Score, Way, plot, table
from players import Player, random_player
from torch import Tensor
from trained import TrainedPlayer

from genie.data.card import is_prepared
from genie.data.clips import FrameStore
from genie.errors import UserError
from genie.files import check_folder, whole, write_whole, writing
from genie.world import World
from train.errors import one_line_errors
from train.measure.true_actions import TrueActions

NUM_GAMES = 64
EPISODES_EACH = 2  # of each game, in every score
LABELS_ALONE_STEPS = 300  # with more, few labels would be learnt by heart


@dataclass(frozen=True, kw_only=True)
class ImitationConfig:
    """Compare ways to learn from an expert's videos."""

    world: Path
    """Checkpoint folder of the world that names the latent actions."""
    expert: Path
    """Recording of the expert's videos, by examples/record_game.py --arrays."""
    player: Path | None = None
    """The expert itself, by examples/expert.py, to be scored, too."""
    labels: tuple[int, ...] = (0, 50, 200, 1000)
    """Numbers of labelled transitions to compare."""
    seeds: int = 5
    """Repetitions: each draws labels, levels, first weights and decisions anew."""
    steps: int = 600
    """Training steps of a clone."""
    out: Path = Path("runs/imitation")
    """Folder for the results; created if necessary."""


@dataclass(frozen=True)
class Task:
    """What is learnt from, and the game for the score."""

    demonstrations: Demonstrations
    latents: Int[Tensor, " frames"]
    """The latent action that led to the next frame; -1 if there is none."""
    buttons: Int[Tensor, " frames"]
    """The true buttons, likewise."""
    sizes: tuple[int, int]
    """The number of latent actions and of button combinations."""
    arena: Arena

    @classmethod
    def open(cls, config: ImitationConfig) -> "Task":
        """Read the videos and let the world name their latent actions.

        Raises:
            UserError: if a folder does not hold what it should, or they do not fit.
        """
        arena = Arena.of(config.expert)
        names = read_recording(config.expert).get("true_actions", [])
        if not is_prepared(config.expert):
            raise UserError(f"{config.expert} holds videos: record with --arrays")
        store = FrameStore.open(config.expert, "train")
        world = World.from_pretrained(config.world)
        if store.size != world.size:
            raise UserError(
                f"frames of {config.expert} are {store.size}, those of {config.world} "
                f"{world.size}: give a world of this game"
            )
        true = TrueActions.open(config.expert / "true_actions.npz").of_store(store)
        sizes = world.num_actions, len(names)
        if config.player:
            TrainedPlayer(config.player, arena.game, sizes[1], 1, np.random.default_rng(0))
        latents = latent_actions(world, store.read, store.scene_starts.tolist())
        task = cls(Demonstrations(store), latents, true, sizes, arena)
        if max(config.labels) > len(task.rows):
            raise UserError(
                f"--labels asks for {max(config.labels)}, {config.expert} has {len(task.rows)} "
                "transitions: record more --frames"
            )
        return task

    def expert(self, path: Path, seed: int) -> TrainedPlayer:
        """The expert itself."""
        generator = np.random.default_rng(seed)
        return TrainedPlayer(path, self.arena.game, self.sizes[1], NUM_GAMES, generator)

    @cached_property
    def rows(self) -> Int[Tensor, " n"]:
        """Frames that have a next one."""
        return ((self.latents >= 0) & (self.buttons >= 0)).nonzero()[:, 0]


def main(config: ImitationConfig) -> None:
    """Print and write what each way earns.

    Raises:
        UserError: a value is out of range, or a file does not fit.
    """
    check(config)
    task = Task.open(config)
    repetitions = [repeat(config, task, seed) for seed in range(config.seeds)]
    scores = {name: Score.of([own[name] for own in repetitions]) for name in repetitions[0]}
    write(config, task, scores)
    print(table(scores))


def repeat(config: ImitationConfig, task: Task, seed: int) -> dict[Way, float]:
    """What each way earns on average, for one seed."""
    generator = torch.Generator().manual_seed(seed)
    mixed = task.rows[torch.randperm(len(task.rows), generator=generator)]
    num_latents, num_buttons = task.sizes

    def clone(name: str, targets: Tensor, choices: int, rows: Tensor, steps: int) -> Clone:
        seen, wanted = task.demonstrations.seen, targets[rows]
        told = f"{name}, {seed + 1} of {config.seeds}"
        return fit(seen, rows, wanted, choices, steps=steps, seed=seed, name=told)

    def score(player: Player) -> float:
        with task.arena.open(NUM_GAMES, seed) as games:
            return float(task.arena.returns(games, player, EPISODES_EACH).mean())

    def play(net: Clone, mapping: Dictionary | None) -> float:
        return score(ClonePlayer(net, mapping, NUM_GAMES, seed))

    earned: dict[Way, float] = {
        ("random", None): score(random_player(num_buttons, NUM_GAMES, seed))
    }
    if config.player:
        earned["expert", None] = score(task.expert(config.player, seed))
    oracle = clone("oracle", task.buttons, num_buttons, task.rows, config.steps)
    earned["oracle", None] = play(oracle, None)
    imitator = clone("imitator", task.latents, num_latents, task.rows, config.steps)
    for num_labels in config.labels:
        rows = mixed[:num_labels]
        latents, buttons = task.latents[rows].numpy(), task.buttons[rows].numpy()
        dictionary = Dictionary(latents, buttons, task.sizes)
        earned["dictionary", num_labels] = play(imitator, dictionary)
        if not num_labels:
            continue
        few = clone("labels alone", task.buttons, num_buttons, rows, LABELS_ALONE_STEPS)
        earned["labels alone", num_labels] = play(few, None)
    return earned


def check(config: ImitationConfig) -> None:
    """Reject invalid options before anything is done."""
    for name, least in {"seeds": 2, "steps": 1}.items():
        if getattr(config, name) < least:
            raise UserError(f"--{name} is {getattr(config, name)}; give at least {least}")
    if min(config.labels, default=-1) < 0:
        raise UserError(f"--labels is {config.labels}; give numbers from 0 on")
    check_folder(config.out)


def write(config: ImitationConfig, task: Task, scores: dict[Way, Score]) -> None:
    """Write the scores as numbers and as a plot.

    Raises:
        UserError: if the folder cannot be written.
    """
    ways = [
        {"way": name, "labels": labels, **asdict(score)} for (name, labels), score in scores.items()
    ]
    options = {name: str(value) for name, value in asdict(config).items()}
    content = {
        "game": asdict(task.arena),
        "options": options,
        "episodes": NUM_GAMES * EPISODES_EACH,
        "ways": ways,
    }
    with writing(config.out):
        write_whole(config.out / "imitation.json", json.dumps(content, indent=1) + "\n")
        with whole(config.out / "imitation.png") as partial:
            plot(task.arena.game, scores).savefig(partial, format="png", dpi=120)


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(ImitationConfig, description=__doc__))
