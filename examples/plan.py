"""Reach what a picture shows: plan in a world, then press the buttons in the real game.

In: a world, and a recording of its game, of which some transitions tell the buttons. Out: a table,
and the same as `plan.json` and as a sheet of pictures, `plan.png`.

    python examples/plan.py --world checkpoints/coinrun --recording data/coinrun-frames \
        --out runs/coinrun-plan

Each goal is the picture to which buttons that were held at random have led in the real game, on a
level of its own. The planner sees the first picture and the goal. It imagines random sequences of
latent actions, takes the one whose last picture is nearest to the goal, and presses the buttons for
which these actions mostly stand, without looking again. Beside it: the same sequences without a
choice among them, random buttons, and the same search with the real game in place of the world,
which no planner can beat.

Source: planning by random shooting, as in PlaNet's comparison (Hafner et al. 2019,
arXiv:1811.04551), towards goals as in Visual Foresight (Ebert et al. 2018, arXiv:1812.00568).
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tyro
from arena import FIRST_LEVEL, Arena
from jaxtyping import Float, Int, UInt8
from labelled import Transitions
from options import LARGEST_SEED, check_out, check_ranges
from outcome import Score, Way, table
from PIL import Image
from tqdm import tqdm

from genie.files import whole, write_whole, writing
from genie.playable import Playable, open_world
from genie.video import Resizer
from train.errors import one_line_errors

HORIZON = 15  # decisions from the first picture to the goal
HOLD = 4, 8  # least and most decisions for which a button is held
SHIFT = 3  # pixels by which pictures may be shifted against each other
NEAR, FAR = 8.0, 15.0  # of 255: a goal that is reached; the least that a goal is away at first
SHEET = 8  # goals on the sheet


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """Reach goals of a real game by planning in a world."""

    world: Path
    """Checkpoint folder of the world."""
    recording: Path
    """Recording of its game, by examples/record_game.py --arrays."""
    labels: int = 200
    """Transitions of the recording whose true buttons are used."""
    goals: int = 32
    """Goals, each on a level of its own."""
    candidates: int = 64
    """Sequences to choose from."""
    seed: int = 0
    """Draws goals and sequences."""
    out: Path = Path("runs/plan")
    """Folder for the results; created if necessary."""


Pictures = UInt8[np.ndarray, "n t h w 3"]
Sequences = Int[np.ndarray, "n t"]


@dataclass(frozen=True)
class Goal:
    """Where to get, and from where."""

    level: int
    start: UInt8[np.ndarray, "h w 3"]
    picture: UInt8[np.ndarray, "h w 3"]


@dataclass(frozen=True)
class Attempt:
    """What came of one goal."""

    goal: Goal
    imagined: UInt8[np.ndarray, "h w 3"]
    """The last picture of the plan in the world."""
    found: UInt8[np.ndarray, "h w 3"]
    """The last picture of the plan in the real game."""
    reached: dict[Way, float]
    """The share of tries that came near the goal."""


class RealGame:
    """The real game at one size of pictures, a level at a time."""

    def __init__(self, arena: Arena, size: tuple[int, int]) -> None:
        self._arena, self._resize = arena, Resizer(size)

    def follow(self, level: int, sequences: Sequences) -> tuple[Pictures, Float[np.ndarray, " n"]]:
        """Press buttons from the start of a level on.

        Returns:
            What was seen, the start included; and for each sequence 1 if the episode went on until
            its end, else 0.
        """
        seen, lasted = [], np.ones(len(sequences))
        with self._arena.open(len(sequences), 0, levels=(level, 1)) as games:
            seen.append([self._resize(picture) for picture in games.pictures])
            for buttons in sequences.T.astype(np.int32):
                lasted *= ~games.advance(buttons, self._arena.frame_skip)
                seen.append([self._resize(picture) for picture in games.pictures])
        return np.stack(seen, axis=1), lasted

    def reached(self, goal: Goal, sequences: Sequences) -> tuple[Pictures, Float[np.ndarray, " n"]]:
        """Press buttons; what was seen, and 1 where that came near the goal, else 0."""
        seen, lasted = self.follow(goal.level, sequences)
        return seen, lasted * (distances(seen[:, -1], goal.picture) < NEAR)


def main(config: PlanConfig) -> None:
    """Print and write how many goals are reached.

    Raises:
        UserError: a value is out of range, or a file does not fit.
    """
    least = {"labels": 1, "goals": 2, "candidates": 2}
    ranges = {name: (number, None) for name, number in least.items()}
    check_ranges(config, {**ranges, "seed": (0, LARGEST_SEED)})
    check_out(config.out, "plan.json")
    known = Transitions.open(config.recording, config.world, config.labels, only_these=True)
    attempts = list(attempt_all(config, known))
    scores = {
        way: Score.of([attempt.reached[way] for attempt in attempts]) for way in attempts[0].reached
    }
    write(config, known.arena, attempts, scores)
    print(table(scores, "share reached"))


def attempt_all(config: PlanConfig, known: Transitions) -> Iterator[Attempt]:
    """Plan towards each goal, and carry the plan out."""
    world = open_world(config.world)
    game = RealGame(known.arena, world.size)
    generator = np.random.default_rng(config.seed)
    num_latents, num_buttons = known.sizes
    buttons_of = known.dictionary(known.rows[: config.labels]).shares.argmax(axis=1)
    goals = draw_goals(game, num_buttons, generator)
    for _, goal in zip(tqdm(range(config.goals), desc="goals"), goals, strict=False):
        plans = draw(generator, config.candidates, num_latents)
        imagined = imagine(world, goal.start, plans)
        best = distances(imagined, goal.picture).argmin()
        seen, reached = game.reached(goal, buttons_of[plans])
        _, by_chance = game.reached(goal, draw(generator, config.candidates, num_buttons))
        ways: dict[Way, float] = {
            ("random buttons", None): by_chance.mean(),
            ("random latents", None): reached.mean(),
            ("planned", None): reached[best],
            ("real game", None): by_chance.max(),
        }
        yield Attempt(goal, imagined[best], seen[best, -1], ways)


def draw(generator: np.random.Generator, count: int, choices: int) -> Sequences:
    """Sequences in which each choice is held for some decisions."""
    lengths = generator.integers(*HOLD, (count, HORIZON), endpoint=True)
    changes = np.cumsum(lengths, axis=1)
    piece = (changes[:, :, None] <= np.arange(HORIZON)).sum(axis=1)
    return np.take_along_axis(generator.integers(choices, size=(count, HORIZON)), piece, axis=1)


def draw_goals(game: RealGame, num_buttons: int, generator: np.random.Generator) -> Iterator[Goal]:
    """Pictures that random buttons lead to and that do not look like the start."""
    for level in range(FIRST_LEVEL, LARGEST_SEED):
        seen, lasted = game.follow(level, draw(generator, 1, num_buttons))
        start, end = seen[0, 0], seen[0, -1]
        if lasted[0] and distances(start[None], end)[0] > FAR:
            yield Goal(level, start, end)


def imagine(
    world: Playable, start: UInt8[np.ndarray, "h w 3"], plans: Sequences
) -> UInt8[np.ndarray, "n h w 3"]:
    """The last picture of each sequence of latent actions."""
    prompts = np.broadcast_to(start.transpose(2, 0, 1), (len(plans), 1, 3, *start.shape[:2]))
    # The same noise for all: they differ by their actions alone.
    sessions = world.start_many(np.ascontiguousarray(prompts), seeds=[0] * len(plans))
    for actions in plans.T:
        frames = sessions.step(actions)
    return frames.transpose(0, 2, 3, 1)


def distances(
    pictures: UInt8[np.ndarray, "n h w 3"], goal: UInt8[np.ndarray, "h w 3"]
) -> Float[np.ndarray, " n"]:
    """Mean absolute difference from the goal, 0..255; a shift by a few pixels does not count."""
    height, width = goal.shape[:2]
    ours, theirs = pictures.astype(np.float32), goal.astype(np.float32)
    found = []
    for down in range(-SHIFT, SHIFT + 1):
        for right in range(-SHIFT, SHIFT + 1):
            rows, columns = _overlap(height, down), _overlap(width, right)
            other_rows, other_columns = _overlap(height, -down), _overlap(width, -right)
            apart = np.abs(ours[:, rows, columns] - theirs[other_rows, other_columns])
            found.append(apart.mean(axis=(1, 2, 3)))
    return np.min(found, axis=0)


def _overlap(length: int, shift: int) -> slice:
    return slice(max(shift, 0), length + min(shift, 0))


def write(
    config: PlanConfig, arena: Arena, attempts: list[Attempt], scores: dict[Way, Score]
) -> None:
    """Write the scores as numbers, and of the first goals: start, goal, imagined, found.

    Raises:
        UserError: if the folder cannot be written.
    """
    content = {
        "game": asdict(arena),
        "options": {name: str(value) for name, value in asdict(config).items()},
        "ways": [{"way": name, **asdict(score)} for (name, _), score in scores.items()],
    }
    rows = [
        np.concatenate([own.goal.start, own.goal.picture, own.imagined, own.found], axis=1)
        for own in attempts[:SHEET]
    ]
    with writing(config.out):
        write_whole(config.out / "plan.json", json.dumps(content, indent=1) + "\n")
        with whole(config.out / "plan.png") as partial:
            Image.fromarray(np.concatenate(rows)).save(partial, format="png")


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(PlanConfig, description=__doc__))
