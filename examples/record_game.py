"""Record a real game into ordinary video files: what Genie is trained on.

Out: one lossless video an episode in `OUT/train` and, of other levels, in `OUT/heldout`;
`OUT/recording.json` says how they were made. The buttons that were pressed go to
`OUT/true_actions.npz`, which training never opens; only the evaluation does.
The games themselves are in `games.py`. Does not resize, label or shuffle anything: that is
`train/prepare.py`.

    python examples/record_game.py --game coinrun --out data/coinrun
    python examples/record_game.py --game ALE/Boxing-v5 --frame-skip 6 --fps 10 --out data/boxing
"""

import contextlib
import json
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from games import Games, is_procgen, open_games
from tqdm import tqdm

from genie import video
from genie.errors import UserError

SPLITS = ("train", "heldout")
FIRST_HELDOUT_LEVEL = 1_000_000
SHORTEST_EPISODE = 16  # stored frames; shorter ones hold no clip worth training on
LONGEST_VIDEO = 512  # stored frames; a game that goes on longer fills several videos
NUM_ENVS = {True: 64, False: 16}  # Procgen's pictures are small and quick
LARGEST_SEED = 2**31 - 1  # Procgen's is a C int
# When an explorer counts as stuck: stored frames, and a mean change of pixels (0..255) below which
# the picture stands still. Measured on hard levels: after four frames, 2 % of Ninja's pictures and
# 7 % of Jumper's are what they were, where a wanderer leaves 16 % and 17 %.
STUCK_FRAMES, STILL = 3, 1.0
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
    """One of the 16 Procgen games, such as coinrun, ninja, climber or jumper, or a Gymnasium id,
    such as ALE/Boxing-v5 (Atari) or CartPole-v1."""
    out: Path
    """Folder to make; it appears when the recording is complete."""
    frames: int = 160_000
    """Stored training frames in all."""
    heldout_frames: int = 20_000
    """Stored frames in all of levels that training never sees."""
    num_levels: int = 2000
    """Training levels, counted from level 0 (at most 1,000,000). Gymnasium's are seeds."""
    num_heldout_levels: int = 500
    """Held-out levels, counted from level 1,000,000."""
    distribution: Literal["easy", "hard"] = "easy"
    """Procgen's difficulty."""
    hand: Literal["wander", "explore"] = "wander"
    """Who plays Procgen: wander goes right and left in turn; explore does, too, and gets itself out
    of where it is stuck, so that climber and jumper are seen from above, too."""
    plain: bool = False
    """Leave out Procgen's backgrounds and keep to one theme: a far easier world to learn."""
    frame_skip: int = 2
    """Game steps per stored frame."""
    hold: tuple[int, int] = (2, 6)
    """Fewest and most stored frames for which a button is held."""
    fps: float = 15.0
    """Frames per second that the videos declare."""
    seed: int = 0
    """Same seed and options: the same frames, actions and file names."""
    num_envs: int | None = None
    """Games played side by side; default 64 of Procgen's or 16 others."""


class Presser:
    """Presses any buttons, each for a few frames. Randomness: `generator` only."""

    def __init__(
        self, num_combos: int, num_envs: int, hold: tuple[int, int], generator: np.random.Generator
    ) -> None:
        self.num_combos, self.hold, self.generator = num_combos, hold, generator
        self.actions = np.zeros(num_envs, dtype=np.int32)
        self.hold_left = np.zeros(num_envs, dtype=np.int64)

    def act(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Return the button combination of every game for the next stored frame.

        Args:
            pictures: what each game shows now; this hand presses blindly.
        """
        chosen = self.choose()
        holds = self.generator.integers(*self.hold, len(chosen), endpoint=True)
        released = self.hold_left == 0
        self.actions = np.where(released, chosen, self.actions).astype(np.int32)
        self.hold_left = np.where(released, holds, self.hold_left) - 1
        return self.actions

    def choose(self) -> np.ndarray:
        """Return what each game would press if its button were let go now."""
        return self.generator.integers(self.num_combos, size=len(self.actions))


class Wanderer(Presser):
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
        super().__init__(len(combos), num_envs, hold, generator)
        rightward = [combos.index(buttons) for buttons in HABITS]
        leftward = [combos.index(_mirrored(buttons)) for buttons in HABITS]
        self.choices = np.array([leftward, rightward])
        self.travels_right = np.arange(num_envs) % 2
        self.travel_left = generator.integers(1, TRAVEL[1], num_envs, endpoint=True)

    def choose(self) -> np.ndarray:
        """Go on with the travel, or turn round."""
        num_envs = len(self.actions)
        travels = self.generator.integers(*TRAVEL, num_envs, endpoint=True)
        habits = self.generator.choice(len(HABITS), num_envs, p=np.fromiter(HABITS.values(), float))
        arrived = self.travel_left == 0
        self.travels_right = self.travels_right ^ arrived
        self.travel_left = np.where(arrived, travels, self.travel_left) - 1
        return self.choices[self.travels_right, habits]


class Explorer(Wanderer):
    """Wanders, and where the picture has stood still for long, does something else.

    Held UP is let go, since Ninja jumps only then and a held jump may hang under a ledge; otherwise
    UP is pressed. Either way, the side is drawn anew. Randomness: `generator` only.
    """

    def __init__(
        self,
        combos: Sequence[tuple[str, ...]],
        num_envs: int,
        hold: tuple[int, int],
        generator: np.random.Generator,
    ) -> None:
        super().__init__(combos, num_envs, hold, generator)
        sides = "LEFT", "RIGHT"
        self.walks = np.array([combos.index((side,)) for side in sides])
        self.jumps = np.array([combos.index((side, "UP")) for side in sides])
        self.holds_up = np.array(["UP" in buttons for buttons in combos])
        self.seen: np.ndarray | None = None
        self.still_for = np.zeros(num_envs, dtype=np.int64)

    def act(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """See `Presser.act`; this hand looks."""
        stuck = self._look(np.stack(pictures)) >= STUCK_FRAMES
        self.still_for[stuck] = 0  # the new buttons get as long to show something
        side = self.generator.integers(0, 2, len(stuck))
        otherwise = np.where(self.holds_up[self.actions], self.walks[side], self.jumps[side])
        self.actions = np.where(stuck, otherwise, self.actions).astype(np.int32)
        holds = self.generator.integers(*self.hold, len(stuck), endpoint=True)
        self.hold_left = np.where(stuck, holds, self.hold_left)
        return super().act(pictures)

    def _look(self, pictures: np.ndarray) -> np.ndarray:
        """For how many frames each picture has stood still."""
        if self.seen is not None:
            change = np.abs(pictures.astype(np.int16) - self.seen).mean(axis=(1, 2, 3))
            self.still_for = np.where(change < STILL, self.still_for + 1, 0)
        self.seen = pictures
        return self.still_for


HANDS = {"wander": Wanderer, "explore": Explorer}


def _mirrored(buttons: tuple[str, ...]) -> tuple[str, ...]:
    return tuple({"LEFT": "RIGHT", "RIGHT": "LEFT"}.get(button, button) for button in buttons)


def main(config: RecordingConfig) -> None:
    """Record both splits into a temporary folder, then rename it to `config.out`.

    Raises:
        UserError: a value is out of range, `out` is taken or cannot be written, or Procgen is
            not installed.
    """
    check(config)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # else the temporary folder would stay
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
    }
    for name, (low, high) in ranges.items():
        value = getattr(config, name)
        if value < low or (high is not None and value > high):
            wanted = f"at least {low}" if high is None else f"{low} to {high}"
            raise UserError(f"--{name.replace('_', '-')} is {value}; give {wanted}")
    ours = config.distribution == "easy" and config.hand == "wander" and not config.plain
    if not is_procgen(config.game) and not ours:
        raise UserError(
            f"--distribution, --plain and --hand are for Procgen: {config.game} has none of them"
        )
    if config.num_envs is not None and config.num_envs < 1:
        raise UserError(f"--num-envs is {config.num_envs}; give at least 1")
    if (config.out / "recording.json").exists():
        raise UserError(
            f"{config.out} already holds a recording; delete it or choose another --out"
        )
    if config.out.exists() and not (config.out.is_dir() and not any(config.out.iterdir())):
        raise UserError(f"{config.out} already exists; choose another --out")


def make_games(config: RecordingConfig, split: str) -> Games:
    """Start the games of a split, side by side.

    Raises:
        UserError: there is no such game, or it is not installed.
    """
    first_level, num_levels = levels_of(config, split)
    return open_games(
        config.game,
        num_envs=config.num_envs or NUM_ENVS[is_procgen(config.game)],
        first_level=first_level,
        num_levels=num_levels,
        seed=config.seed,
        distribution=config.distribution,
        plain=config.plain,
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
    config: RecordingConfig, split: str, games: Games, folder: Path
) -> tuple[dict[str, int], dict[str, np.ndarray]]:
    """Record one split's videos into `folder`; return its counts and the true actions by name."""
    first_level, num_levels = levels_of(config, split)
    # The level joins the seed so that the two splits are not played alike.
    generator = np.random.default_rng([config.seed, first_level])
    num_envs = len(games.levels)
    if is_procgen(config.game):
        hand = HANDS[config.hand](games.combos, num_envs, config.hold, generator)
    else:
        hand = Presser(len(games.combos), num_envs, config.hold, generator)
    wanted = config.frames if split == "train" else config.heldout_frames
    folder.mkdir(parents=True)
    actions = {}
    with tqdm(total=wanted, desc=f"{config.game} {split}", unit=" frames") as progress:
        episodes = play_episodes(games, hand, config.frame_skip, progress)
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


def play_episodes(
    games: Games, hand: Presser, frame_skip: int, progress: tqdm
) -> Iterator[Episode]:
    """Yield episodes in the order in which they end, until `progress` has its total of frames.

    The games that are still running then are cut and count too; without them, short episodes
    would be overrepresented.
    """
    num_yielded = 0
    running = [Episode(level) for level in games.levels]
    while True:
        for episode, frame in zip(running, games.pictures, strict=True):
            episode.frames.append(frame.copy())
        num_frames = num_yielded + sum(episode.num_kept for episode in running)
        progress.update(min(num_frames, progress.total) - progress.n)
        if num_frames >= progress.total:
            break
        actions = hand.act(games.pictures)
        # An action into a reset, or into the next video, leads to no frame.
        over = games.advance(actions, frame_skip)
        over |= np.array([len(episode.frames) == LONGEST_VIDEO for episode in running])
        for index in np.flatnonzero(~over):
            running[index].actions.append(int(actions[index]))
        finished = [running[index] for index in np.flatnonzero(over)]
        restart(running, over, games)
        num_yielded += sum(episode.num_kept for episode in finished)
        yield from (episode for episode in finished if episode.num_kept)
    yield from (episode for episode in running if episode.num_kept)


def restart(running: list[Episode], over: np.ndarray, games: Games) -> None:
    """Replace the episodes that are over by empty ones on the levels that are on."""
    if over.any():
        levels = games.levels
        for index in np.flatnonzero(over):
            running[index] = Episode(levels[index])


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
