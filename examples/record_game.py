"""Record a real game into ordinary video files: what Genie is trained on.

Out: one lossless 64x64 video an episode in `OUT/train` and, of other levels, in `OUT/heldout`;
`OUT/recording.json` says how they were made. The buttons that were pressed go to
`OUT/true_actions.npz`, which training never opens; only the evaluation does.
Source: the 16 games of Procgen (Cobbe et al. 2020, arXiv:1912.01588).
Does not resize, label or shuffle anything: that is `train/prepare.py`.

    python examples/record_game.py --game coinrun --out data/coinrun
"""

import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from tqdm import tqdm

from genie import video
from genie.errors import UserError

GAMES = (
    "bigfish",
    "bossfight",
    "caveflyer",
    "chaser",
    "climber",
    "coinrun",
    "dodgeball",
    "fruitbot",
    "heist",
    "jumper",
    "leaper",
    "maze",
    "miner",
    "ninja",
    "plunder",
    "starpilot",
)
SPLITS = ("train", "heldout")
FIRST_HELDOUT_LEVEL = 1_000_000
SHORTEST_EPISODE = 16  # stored frames; shorter ones hold no clip worth training on
LARGEST_SEED = 2**31 - 1  # Procgen's is a C int
# Stored frames. Measured in CoinRun, which starts at a level's left wall: longer travels spend
# more of their leftward half against that wall.
TRAVEL = (15, 45)
# Buttons for a travel to the right and how often they are held; mirrored for the left.
HABITS = {
    ("RIGHT",): 0.40,
    ("RIGHT", "UP"): 0.26,
    (): 0.14,
    ("UP",): 0.05,
    ("LEFT",): 0.08,
    ("LEFT", "UP"): 0.04,
    ("DOWN",): 0.03,
}


@dataclass(frozen=True, kw_only=True)
class RecordingConfig:
    """Record a game's episodes, played by a wandering hand, into lossless videos."""

    game: str
    """One of the 16 Procgen games, such as coinrun, ninja, climber or jumper."""
    out: Path
    """Folder to make; it appears when the recording is complete."""
    frames: int = 160_000
    """Stored training frames in all."""
    heldout_frames: int = 20_000
    """Stored frames in all of levels that training never sees."""
    num_levels: int = 2000
    """Training levels, counted from level 0 (at most 1,000,000)."""
    num_heldout_levels: int = 500
    """Held-out levels, counted from level 1,000,000."""
    distribution: Literal["easy", "hard"] = "easy"
    """Procgen's difficulty."""
    plain: bool = False
    """Leave out the backgrounds and keep to one theme: a far easier world to learn."""
    frame_skip: int = 2
    """Game steps per stored frame."""
    hold: tuple[int, int] = (2, 6)
    """Fewest and most stored frames for which a button is held."""
    fps: float = 15.0
    """Frames per second that the videos declare."""
    seed: int = 0
    """Same seed and options: the same frames, actions and file names."""
    num_envs: int = 64
    """Games played side by side."""


class Wanderer:
    """Holds buttons like somebody exploring: moves on one way for a while, jumps, pauses, turns.

    Travels go right and left in turn, so that both directions earn a latent action, and last long
    enough to get somewhere; uniformly random buttons would leave the agent where it started.
    Randomness: `generator` only.
    """

    def __init__(
        self,
        combos: Sequence[tuple[str, ...]],
        num_envs: int,
        hold: tuple[int, int],
        generator: np.random.Generator,
    ) -> None:
        self.generator = generator
        self.hold = hold
        rightward = [combos.index(buttons) for buttons in HABITS]
        leftward = [combos.index(_mirrored(buttons)) for buttons in HABITS]
        self.choices = np.array([leftward, rightward])
        self.travels_right = np.arange(num_envs) % 2
        self.travel_left = generator.integers(1, TRAVEL[1], num_envs, endpoint=True)
        self.actions = np.zeros(num_envs, dtype=np.int32)
        self.hold_left = np.zeros(num_envs, dtype=np.int64)

    def act(self) -> np.ndarray:
        """Return the button combination of every game for the next stored frame."""
        num_envs = len(self.actions)
        travels = self.generator.integers(*TRAVEL, num_envs, endpoint=True)
        habits = self.generator.choice(len(HABITS), num_envs, p=np.fromiter(HABITS.values(), float))
        holds = self.generator.integers(*self.hold, num_envs, endpoint=True)

        arrived = self.travel_left == 0
        self.travels_right = self.travels_right ^ arrived
        self.travel_left = np.where(arrived, travels, self.travel_left) - 1
        released = self.hold_left == 0
        self.actions = np.where(released, self.choices[self.travels_right, habits], self.actions)
        self.hold_left = np.where(released, holds, self.hold_left) - 1
        return self.actions.astype(np.int32)


def _mirrored(buttons: tuple[str, ...]) -> tuple[str, ...]:
    return tuple({"LEFT": "RIGHT", "RIGHT": "LEFT"}.get(button, button) for button in buttons)


def main(config: RecordingConfig) -> None:
    """Record both splits into a temporary folder, then rename it to `config.out`.

    Raises:
        UserError: a value is out of range, `out` is taken or cannot be written, or Procgen is
            not installed.
    """
    check(config)
    out = config.out.resolve()
    summary, true_actions = {}, {}
    with contextlib.ExitStack() as stack:
        # Closed here and not by the garbage collector: gym3 then hangs if others are starting.
        games = {
            split: stack.enter_context(contextlib.closing(make_games(config, split)))
            for split in SPLITS
        }
        folder = stack.enter_context(temporary_folder(out)) / "recording"
        for split in SPLITS:
            summary[split], actions = record_split(config, split, games[split], folder / split)
            true_actions |= {f"{split}/{name}": taken for name, taken in actions.items()}
        np.savez_compressed(folder / "true_actions.npz", **true_actions)
        card = describe(config, summary, games["train"].combos)
        (folder / "recording.json").write_text(json.dumps(card, indent=2) + "\n")
        folder.rename(out)
    for split, counts in summary.items():
        print(f"{config.out / split}: {counts['videos']} videos, {counts['frames']} frames")


def check(config: RecordingConfig) -> None:
    """Refuse what cannot be recorded, before anything is written."""
    if config.game not in GAMES:
        raise UserError(f"no game is called {config.game!r}; choose one of {', '.join(GAMES)}")
    if not 1 <= config.hold[0] <= config.hold[1]:
        raise UserError(f"--hold is {config.hold}; give two counts of frames, the smaller first")
    ranges = {
        "frames": (SHORTEST_EPISODE, None),
        "heldout_frames": (SHORTEST_EPISODE, None),
        # Procgen reads 0 levels as "every level there is", which would mix the two splits.
        "num_levels": (1, FIRST_HELDOUT_LEVEL),
        "num_heldout_levels": (1, FIRST_HELDOUT_LEVEL),
        "frame_skip": (1, 16),  # beyond, hardly an episode is long enough to keep
        "fps": (1, None),
        "seed": (0, LARGEST_SEED),
        "num_envs": (1, None),
    }
    for name, (low, high) in ranges.items():
        value = getattr(config, name)
        if value < low or (high is not None and value > high):
            wanted = f"at least {low}" if high is None else f"{low} to {high}"
            raise UserError(f"--{name.replace('_', '-')} is {value}; give {wanted}")
    if (config.out / "recording.json").exists():
        raise UserError(
            f"{config.out} already holds a recording; delete it or choose another --out"
        )
    if config.out.exists() and not (config.out.is_dir() and not any(config.out.iterdir())):
        raise UserError(f"{config.out} already exists; choose another --out")


def make_games(config: RecordingConfig, split: str):
    """Start the games of a split, side by side.

    Raises:
        UserError: Procgen is not installed.
    """
    # Gym greets every import with a notice that it is no longer maintained.
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            from procgen import ProcgenGym3Env
        except ModuleNotFoundError as error:
            raise UserError(
                f"the games need the package {error.name!r}; install it with: make procgen"
            ) from error
    first_level, num_levels = levels_of(config, split)
    return ProcgenGym3Env(
        num=config.num_envs,
        env_name=config.game,
        start_level=first_level,
        num_levels=num_levels,
        rand_seed=config.seed,
        distribution_mode=config.distribution,
        use_backgrounds=not config.plain,
        restrict_themes=config.plain,
    )


def levels_of(config: RecordingConfig, split: str) -> tuple[int, int]:
    """Return the first level of a split and their number; the splits share none."""
    if split == "train":
        return 0, config.num_levels
    return FIRST_HELDOUT_LEVEL, config.num_heldout_levels


@contextlib.contextmanager
def temporary_folder(beside: Path) -> Iterator[Path]:
    """Make a hidden folder next to `beside` and delete it afterwards, whatever happened.

    Raises:
        UserError: nothing can be written there.
    """
    try:
        beside.parent.mkdir(parents=True, exist_ok=True)
        holder = tempfile.TemporaryDirectory(prefix=f".{beside.name}-", dir=beside.parent)
    except OSError as error:
        raise UserError(f"cannot write {beside}: {error.strerror}; choose another --out") from error
    with holder as name:
        yield Path(name)


def record_split(
    config: RecordingConfig, split: str, games, folder: Path
) -> tuple[dict[str, int], dict[str, np.ndarray]]:
    """Record one split's videos into `folder`; return its counts and the true actions by name."""
    first_level, num_levels = levels_of(config, split)
    # The level joins the seed so that the two splits are not played alike.
    generator = np.random.default_rng([config.seed, first_level])
    wanderer = Wanderer(games.combos, config.num_envs, config.hold, generator)
    wanted = config.frames if split == "train" else config.heldout_frames
    folder.mkdir(parents=True)
    actions = {}
    with tqdm(total=wanted, desc=f"{config.game} {split}", unit=" frames") as progress:
        episodes = play_episodes(games, wanderer, config.frame_skip, progress)
        for number, episode in enumerate(episodes):
            name = f"level-{episode.level:06d}-episode-{number:05d}"
            video.write(folder / f"{name}.mp4", episode.frames, fps=config.fps, lossless=True)
            actions[name] = np.array(episode.actions, dtype=np.int64)
    counts = {
        "first_level": first_level,
        "num_levels": num_levels,
        "videos": len(actions),
        "frames": sum(len(taken) + 1 for taken in actions.values()),
    }
    return counts, actions


@dataclass
class Episode:
    """What one game showed and was told since a reset; action t leads from frame t to t+1."""

    level: int
    frames: list[np.ndarray] = field(default_factory=list)
    actions: list[int] = field(default_factory=list)

    @property
    def num_kept(self) -> int:
        """Frames worth storing: all of them, or none of an episode that is too short."""
        return len(self.frames) if len(self.frames) >= SHORTEST_EPISODE else 0


def play_episodes(games, wanderer: Wanderer, frame_skip: int, progress: tqdm) -> Iterator[Episode]:
    """Yield episodes in the order in which they end, until `progress` has its total of frames.

    The games that are still running then are cut and count too; without them, short episodes
    would be overrepresented.
    """
    num_yielded = 0
    running = [Episode(level) for level in current_levels(games)]
    _, observation, _ = games.observe()
    while True:
        for episode, frame in zip(running, observation["rgb"], strict=True):
            episode.frames.append(frame.copy())
        num_frames = num_yielded + sum(episode.num_kept for episode in running)
        progress.update(min(num_frames, progress.total) - progress.n)
        if num_frames >= progress.total:
            break
        actions = wanderer.act()
        ended, observation = advance(games, actions, frame_skip)
        for index in np.flatnonzero(~ended):  # an action into a reset leads to no frame
            running[index].actions.append(int(actions[index]))
        finished = [running[index] for index in np.flatnonzero(ended)]
        restart(running, ended, games)
        num_yielded += sum(episode.num_kept for episode in finished)
        yield from (episode for episode in finished if episode.num_kept)
    yield from (episode for episode in running if episode.num_kept)


def restart(running: list[Episode], ended: np.ndarray, games) -> None:
    """Replace the episodes that have ended by empty ones on the levels that came up."""
    if ended.any():
        levels = current_levels(games)
        for index in np.flatnonzero(ended):
            running[index] = Episode(levels[index])


def current_levels(games) -> list[int]:
    """Return the level that each game is on."""
    return [int(info["level_seed"]) for info in games.get_info()]


def advance(games, actions: np.ndarray, frame_skip: int) -> tuple[np.ndarray, dict]:
    """Hold `actions` for some game steps; return which games were reset meanwhile, and a view."""
    ended = np.zeros(len(actions), dtype=bool)
    for _ in range(frame_skip):
        games.act(actions)
        _, observation, first = games.observe()
        ended |= first
    return ended, observation


def describe(
    config: RecordingConfig, summary: dict[str, dict], combos: Sequence[tuple[str, ...]]
) -> dict:
    """Return what `recording.json` says; nothing in it depends on when or where it was made."""
    options = {name: value for name, value in asdict(config).items() if name != "out"}
    names = ["+".join(buttons) or "NONE" for buttons in combos]
    return {"version": 1, **options, "splits": summary, "true_actions": names}


if __name__ == "__main__":
    try:
        main(tyro.cli(RecordingConfig))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
