"""Reach what a picture shows: plan in a world, press the buttons in the real game.

In: a world, and a recording of its game, of which some transitions tell the buttons. Out: a table,
and the same as `plan.json` and as a sheet of pictures, `plan.png`.

    python examples/record_game.py --game coinrun --plain --arrays --frames 5000 \
        --heldout-frames 1000 --out data/coinrun-labels
    python examples/plan.py --world checkpoints/coinrun --recording data/coinrun-labels

Each goal is the picture to which buttons that were held at random have led in the real game, on a
level of its own. The planner sees the first picture and the goal. It imagines random sequences of
latent actions, takes the one whose last picture is nearest to the goal, presses the buttons for
which its first actions mostly stand, looks, and plans anew. Beside it: random buttons, the buttons
of random latent actions, and the nearest of as many sequences tried out in the real game.

Source: model-predictive control by random shooting towards a goal picture, as in Visual Foresight
(Ebert et al. 2018, arXiv:1812.00568). Differs: no refinement of the sequences, and pictures are
compared as they are.
"""

import contextlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from arena import FIRST_LEVEL, Arena
from games import Games
from jaxtyping import Bool, Float, Int, UInt8
from labelled import Transitions
from options import LARGEST_SEED, check_out, check_ranges
from outcome import Score, Way, table
from PIL import Image
from tqdm import tqdm

from genie.errors import UserError
from genie.files import whole, write_whole, writing
from genie.playable import Playable, open_world
from genie.video import Resizer
from train.errors import one_line_errors

HORIZON = 15  # decisions from the first picture to the goal
HOLD = 4, 8  # least and most decisions for which a button is held
LOOK_EVERY = 5  # decisions
SHIFT = 3  # pixels by which pictures may be shifted against each other
NEAR, FAR = 8.0, 15.0  # of 255: a goal that is reached; the least that a goal is away at first
MOST_ALIKE = 200  # levels tried for one goal
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
    candidates: int = 32
    """Sequences to choose from."""
    seed: int = 0
    """Draws goals and sequences."""
    out: Path = Path("runs/plan")
    """Folder for the results; created if necessary."""


Picture = UInt8[np.ndarray, "h w 3"]
Pictures = UInt8[np.ndarray, "n h w 3"]
Sequences = Int[np.ndarray, "n t"]


@dataclass(frozen=True)
class Goal:
    """Where to get, and from where."""

    level: int
    start: Picture
    picture: Picture


@dataclass(frozen=True)
class Attempt:
    """What came of one goal."""

    goal: Goal
    imagined: Picture
    """The last picture of the first plan."""
    found: Picture
    """What the real game showed at the end."""
    reached: dict[Way, float]
    """The share of tries that came near the goal."""


class Tries:
    """One level of the real game, played several times side by side."""

    def __init__(self, games: Games, frame_skip: int, resize: Resizer) -> None:
        self._games, self._frame_skip, self._resize = games, frame_skip, resize
        self.films = [self._show()]
        """What was seen so far."""
        self.lasts = np.ones(len(games.levels), dtype=bool)
        """Whether the episode has not ended."""

    def press(self, buttons: Int[np.ndarray, " n"]) -> None:
        """Hold buttons until the next picture."""
        self.lasts &= ~self._games.advance(buttons.astype(np.int32), self._frame_skip)
        self.films.append(self._show())

    def reached(self, goal: Goal) -> Bool[np.ndarray, " n"]:
        """Where the newest picture is near the goal."""
        return self.lasts & (distances(self.films[-1], goal.picture) < NEAR)

    def _show(self) -> Pictures:
        return np.stack([self._resize(picture) for picture in self._games.pictures])


class RealGame:
    """The real game with pictures of one size."""

    def __init__(self, arena: Arena, size: tuple[int, int]) -> None:
        self.name = arena.game
        self._arena, self._resize = arena, Resizer(size)

    @contextlib.contextmanager
    def open(self, level: int, count: int) -> Iterator[Tries]:
        """Start a level several times."""
        with self._arena.open(count, 0, levels=(level, 1)) as games:
            yield Tries(games, self._arena.frame_skip, self._resize)

    def follow(self, level: int, sequences: Sequences) -> Tries:
        """Press buttons from the start of a level on."""
        with self.open(level, len(sequences)) as tries:
            for buttons in sequences.T:
                tries.press(buttons)
        return tries


@dataclass(frozen=True)
class Planner:
    """Chooses latent actions by what they lead to in a world."""

    world: Playable
    buttons_of: Int[np.ndarray, " latents"]
    """What is pressed for each latent action."""
    num_candidates: int
    generator: np.random.Generator

    def plan(self, film: Pictures, goal: Picture, earlier: Sequences) -> tuple[Sequences, Picture]:
        """The best sequence that was drawn, or is left of the last plan; its last picture.

        Args:
            film: what was seen so far.
            earlier: what is left, (1, t) for the decisions that remain, or (0, t).
        """
        drawn = draw(self.generator, self.num_candidates, len(self.buttons_of))
        plans = np.concatenate([earlier, drawn[:, : earlier.shape[1]]])
        prompt = np.ascontiguousarray(film.transpose(0, 3, 1, 2))[None]
        running = self.world.start_many(prompt, seeds=[0]).fork(len(plans))
        for actions in plans.T:
            frames = running.step(actions)
        frames = frames.transpose(0, 2, 3, 1)
        best = distances(frames, goal).argmin()
        return plans[best : best + 1], frames[best]

    def carry_out(self, tries: Tries, goal: Goal) -> Picture:
        """Plan and press in turn; the last picture of the first plan."""
        imagined, plan = [], np.zeros((0, HORIZON), dtype=np.int64)
        while plan.shape[1]:
            plan, last = self.plan(np.concatenate(tries.films), goal.picture, plan)
            imagined.append(last)
            for actions in plan.T[:LOOK_EVERY]:
                tries.press(self.buttons_of[actions])
            plan = plan[:, LOOK_EVERY:]
        return imagined[0]


def main(config: PlanConfig) -> None:
    """Print and write how many goals are reached.

    Raises:
        UserError: a value is out of range, or a file does not fit.
    """
    least = {"labels": 1, "goals": 2, "candidates": 2}
    ranges = {name: (number, None) for name, number in least.items()}
    check_ranges(config, {**ranges, "seed": (0, LARGEST_SEED)})
    check_out(config.out, "plan.json")
    known = Transitions.open(config.recording, config.world, config.labels)
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
    labelled = generator.choice(known.rows.numpy(), config.labels, replace=False)
    buttons_of = known.dictionary(torch.from_numpy(labelled)).shares.argmax(axis=1)
    planner = Planner(world, buttons_of, config.candidates, generator)
    num_latents, num_buttons = known.sizes
    goals = draw_goals(game, num_buttons, generator)
    for _, goal in zip(tqdm(range(config.goals), desc="goals"), goals, strict=False):
        with game.open(goal.level, 1) as tries:
            imagined = planner.carry_out(tries, goal)
        buttons = draw(generator, config.candidates, num_buttons)
        by_buttons = game.follow(goal.level, buttons).reached(goal)
        latents = draw(generator, config.candidates, num_latents)
        by_latents = game.follow(goal.level, buttons_of[latents]).reached(goal)
        ways: dict[Way, float] = {
            ("random buttons", None): by_buttons.mean(),
            ("random latents", None): by_latents.mean(),
            ("planned", None): float(tries.reached(goal)[0]),
            ("tried out", None): float(by_buttons.any()),
        }
        yield Attempt(goal, imagined, tries.films[-1][0], ways)


def draw(generator: np.random.Generator, count: int, choices: int) -> Sequences:
    """Sequences in which each choice is held for some decisions."""
    lengths = generator.integers(*HOLD, (count, HORIZON), endpoint=True)
    changes = np.cumsum(lengths, axis=1)
    piece = (changes[:, :, None] <= np.arange(HORIZON)).sum(axis=1)
    return np.take_along_axis(generator.integers(choices, size=(count, HORIZON)), piece, axis=1)


def draw_goals(game: RealGame, num_buttons: int, generator: np.random.Generator) -> Iterator[Goal]:
    """Pictures that random buttons lead to and that do not look like the start.

    Raises:
        UserError: if `MOST_ALIKE` levels in a row have none.
    """
    num_alike = 0
    for level in itertools.count(FIRST_LEVEL):
        if num_alike == MOST_ALIKE:
            raise UserError(f"buttons hardly change what {game.name} shows: it has no goals")
        tries = game.follow(level, draw(generator, 1, num_buttons))
        start, end = tries.films[0], tries.films[-1]
        num_alike += 1
        if tries.lasts[0] and distances(start, end[0])[0] > FAR:
            num_alike = 0
            yield Goal(level, start[0], end[0])


def distances(pictures: Pictures, goal: Picture) -> Float[np.ndarray, " n"]:
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
