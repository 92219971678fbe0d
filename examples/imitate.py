"""Learn to play from videos without labels, then from a few labels which button does what.

In: a world, the recording of an expert's videos, and the real game for the score. Out: a table, and
the same as `imitation.json` and as a plot, `imitation.png`.

    python examples/imitate.py --world checkpoints/coinrun --expert data/coinrun-expert \
        --out runs/coinrun-imitation

A world names the latent action between each two frames; a clone learns which one the expert takes.
Some labelled transitions then tell the buttons, by a dictionary. The other way round: the labels
tell the buttons of all transitions, guessed from what the world saw in them before it named them,
and a clone learns these guesses. Beside both: an oracle, the same clone trained on all true
buttons; a clone trained on nothing but those few labels; random buttons; with --player, the expert
itself.

Source: Genie (Bruce et al. 2024, arXiv:2402.15391), section 3.3.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from acting import Actor, Shares
from arena import Arena, read_recording
from cloning import Clone, Demonstrations, fit
from labelled import Transitions
from mapping import Dictionary
from options import check_out, check_ranges
from outcome import Score, Way, plot, table
from players import Player, random_player
from torch import Tensor
from trained import load

from genie.errors import UserError
from genie.files import whole, write_whole, writing
from train.errors import one_line_errors

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

    expert: Shares | None
    """What the expert itself does, if it is to be scored."""
    transitions: Transitions
    demonstrations: Demonstrations

    @classmethod
    def open(cls, config: ImitationConfig) -> "Task":
        """Read the videos and let the world name their latent actions.

        Raises:
            UserError: if a folder does not hold what it should, or they do not fit.
        """
        expert = None
        if config.player:
            names = read_recording(config.expert).get("true_actions", [])
            expert = load(config.player, Arena.of(config.expert).game, len(names))
        transitions = Transitions.open(config.expert, config.world, max(config.labels))
        return cls(expert, transitions, Demonstrations(transitions.store))


def main(config: ImitationConfig) -> None:
    """Print and write what each way earns.

    Raises:
        UserError: a value is out of range, or a file does not fit.
    """
    check(config)
    task = Task.open(config)
    repetitions = [repeat(config, task, seed) for seed in range(config.seeds)]
    scores = {name: Score.of([own[name] for own in repetitions]) for name in repetitions[0]}
    write(config, task.transitions.arena, scores)
    print(table(scores))


def repeat(config: ImitationConfig, task: Task, seed: int) -> dict[Way, float]:
    """What each way earns on average, for one seed."""
    known = task.transitions
    num_latents, num_buttons = known.sizes
    generator = torch.Generator().manual_seed(seed)
    mixed = known.rows[torch.randperm(len(known.rows), generator=generator)]

    def clone(name: str, targets: Tensor, choices: int, rows: Tensor, steps: int) -> Clone:
        seen, wanted = task.demonstrations.seen, targets[rows]
        told = f"{name}, {seed + 1} of {config.seeds}"
        return fit(seen, rows, wanted, choices, steps=steps, seed=seed, name=told)

    def score(player: Player) -> float:
        with known.arena.open(NUM_GAMES, seed) as games:
            return float(known.arena.returns(games, player, EPISODES_EACH).mean())

    def play(shares: Shares, mapping: Dictionary | None = None) -> float:
        return score(Actor(shares, NUM_GAMES, np.random.default_rng(seed), mapping))

    earned: dict[Way, float] = {
        ("random", None): score(random_player(num_buttons, NUM_GAMES, seed))
    }
    if task.expert:
        earned["expert", None] = play(task.expert)
    oracle = clone("oracle", known.buttons, num_buttons, known.rows, config.steps)
    earned["oracle", None] = play(oracle.shares)
    imitator = clone("imitator", known.latents, num_latents, known.rows, config.steps)
    for num_labels in config.labels:
        rows = mixed[:num_labels]
        earned["dictionary", num_labels] = play(imitator.shares, known.dictionary(rows))
        if not num_labels:
            continue
        guesses = clone("guesses", known.guesses(rows), num_buttons, known.rows, config.steps)
        earned["guesses", num_labels] = play(guesses.shares)
        few = clone("labels alone", known.buttons, num_buttons, rows, LABELS_ALONE_STEPS)
        earned["labels alone", num_labels] = play(few.shares)
    return earned


def check(config: ImitationConfig) -> None:
    """Reject invalid options before anything is done."""
    check_ranges(config, {"seeds": (2, None), "steps": (1, None)})
    if min(config.labels, default=-1) < 0:
        raise UserError(f"--labels is {config.labels}; give numbers from 0 on")
    check_out(config.out, "imitation.json")


def write(config: ImitationConfig, arena: Arena, scores: dict[Way, Score]) -> None:
    """Write the scores as numbers and as a plot.

    Raises:
        UserError: if the folder cannot be written.
    """
    ways = [
        {"way": name, "labels": labels, **asdict(score)} for (name, labels), score in scores.items()
    ]
    options = {name: str(value) for name, value in asdict(config).items()}
    content = {
        "game": asdict(arena),
        "options": options,
        "episodes": NUM_GAMES * EPISODES_EACH,
        "ways": ways,
    }
    with writing(config.out):
        write_whole(config.out / "imitation.json", json.dumps(content, indent=1) + "\n")
        with whole(config.out / "imitation.png") as partial:
            plot(arena.game, scores).savefig(partial, format="png", dpi=120)


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(ImitationConfig, description=__doc__))
