"""Record a real game into ordinary video files, or straight into a prepared folder.

Out: one lossless video an episode in `OUT/train` and, of other levels, in `OUT/heldout`; with
`--arrays` what `python -m train.prepare --no-cuts` would make of them, in a fraction of the time.
`OUT/recording.json` says how they were made. The buttons that were pressed go to
`OUT/true_actions.npz`, which training never opens; only the evaluation does.
The games themselves are in `games.py`, who plays them in `players.py`. Labels and shuffles nothing.

    python examples/record_game.py --game coinrun --out data/coinrun
    python examples/record_game.py --game ALE/Boxing-v5 --frame-skip 6 --fps 10 --out data/boxing
    python examples/record_game.py --game coinrun --arrays --processes 16 --out data/coinrun-frames
"""

import contextlib
import json
import math
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from episodes import (
    LONGEST_VIDEO,
    SHORTEST_EPISODE,
    SIZE,
    ArrayKeeper,
    Keeper,
    VideoKeeper,
    play_episodes,
    writing,
)
from games import Games, is_procgen, open_games
from players import HANDS, Lengths, Presser
from recorders import Tell, side_by_side
from tqdm import tqdm

from genie import video
from genie.data.card import SPLITS, Card
from genie.data.shards import Shard, StoredVideo, list_videos, seal, write_card
from genie.errors import UserError

FIRST_HELDOUT_LEVEL = 1_000_000
NUM_ENVS = {True: 64, False: 16}  # Procgen's pictures are small and quick
LARGEST_SEED = 2**31 - 1  # Procgen's is a C int


@dataclass(frozen=True, kw_only=True)
class RecordingConfig:
    """Record a game's episodes, played by a wandering hand, into lossless videos or arrays."""

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
    hold_s: tuple[float, float] = (0.13, 0.4)
    """Least and most seconds of the game for which a button is held. Procgen has 30 game steps a
    second, Atari 60, others what they declare, or else 30."""
    fps: float = 15.0
    """Frames per second that the videos declare."""
    seed: int = 0
    """Same seed and options: the same frames, actions and file names."""
    num_envs: int | None = None
    """Games played side by side in each process; default 64 of Procgen's or 16 others, fewer where
    several processes have little to record."""
    arrays: bool = False
    """Make a prepared folder of 64x64 frames for python -m train --data, and no videos, whose
    encoding takes several times as long as the games."""
    processes: int = 1
    """Processes among which the recording is divided, each with games of its own; best one a core.
    Their number decides what is recorded, as the seed does."""


def main(config: RecordingConfig) -> None:
    """Record both splits into a temporary folder, then rename it to `config.out`.

    Raises:
        UserError: a value is out of range, `out` is taken or cannot be written, Procgen is not
            installed, or a process was killed.
    """
    check(config)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # else the temporary folder would stay
    out = config.out.resolve()
    with contextlib.ExitStack() as stack:
        holder = stack.enter_context(temporary_folder(out))
        folder = holder / "recording"
        for split in SPLITS:
            (folder / split).mkdir(parents=True)
        shares = stack.enter_context(record_shares(config, folder))
        with writing():
            counts = complete(config, shares, folder)
            folder.rename(out)
    for split, count in counts.items():
        print(f"{config.out / split}: {count['videos']} videos, {count['frames']} frames")


def check(config: RecordingConfig) -> None:
    """Refuse what cannot be recorded, before anything is written."""
    low, high = config.hold_s
    if not 0 < low <= high < math.inf:
        raise UserError(f"--hold-s is {low:g} {high:g}; give two times in seconds, the less first")
    fewest = SHORTEST_EPISODE * max(1, config.processes)
    ranges = {
        "processes": (1, None),
        "frames": (fewest, None),
        "heldout_frames": (fewest, None),
        # Procgen reads 0 levels as "every level there is", which would mix the two splits.
        "num_levels": (1, FIRST_HELDOUT_LEVEL),
        "num_heldout_levels": (1, FIRST_HELDOUT_LEVEL),
        "frame_skip": (1, 16),  # beyond, hardly an episode is long enough to keep
        "fps": (1, video.MAX_FPS),
        "seed": (0, LARGEST_SEED),
    }
    for name, (least, most) in ranges.items():
        value = getattr(config, name)
        if value < least or (most is not None and value > most):
            wanted = f"at least {least}" if most is None else f"{least} to {most}"
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


@dataclass(frozen=True)
class Recorder:
    """One of the processes among which a recording is divided."""

    number: int = 0
    of: int = 1

    def share(self, total: int) -> int:
        """Its share of so many frames."""
        return total // self.of + (self.number < total % self.of)

    def seed(self, seed: int) -> int:
        """Its own seed, that of the command for the first."""
        if self.number == 0:
            return seed
        drawn = np.random.SeedSequence([seed, self.number]).generate_state(1)[0]
        return int(drawn) % (LARGEST_SEED + 1)


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What one process recorded of one split."""

    actions: dict[str, np.ndarray]
    """By video, in the order in which they ended."""
    videos: list[StoredVideo]
    """See `Keeper`; none of the videos that are files."""
    shards: list[Shard]


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one process recorded."""

    splits: dict[str, Recorded]
    combos: list[tuple[str, ...]]
    """Of `Games`."""


@contextlib.contextmanager
def record_shares(config: RecordingConfig, folder: Path) -> Iterator[list[Share]]:
    """Record both splits, in this process or in several, which end with the context.

    Raises:
        UserError: see `main`.
    """
    with contextlib.ExitStack() as stack:
        bar: tqdm | None = None  # until there are frames: an error is then a line alone

        def tell(num_frames: int) -> None:
            nonlocal bar
            if bar is None:
                total = config.frames + config.heldout_frames
                bar = stack.enter_context(tqdm(total=total, desc=config.game, unit=" frames"))
            bar.update(num_frames - bar.n)

        if config.processes == 1:
            yield [record_share(config, Recorder(), folder, tell)]
        else:
            recorders = [Recorder(number, config.processes) for number in range(config.processes)]
            jobs = [(config, recorder, folder) for recorder in recorders]
            yield stack.enter_context(side_by_side(record_share, jobs, tell, folder.parent))


def record_share(config: RecordingConfig, recorder: Recorder, folder: Path, tell: Tell) -> Share:
    """Record one process' share of both splits into `folder`."""
    splits, num_frames = {}, 0

    def tell_more(of_split: int) -> None:
        tell(num_frames + of_split)

    with contextlib.ExitStack() as stack:
        # Closed here and not by the garbage collector: gym3 then hangs if others are starting.
        games = {
            split: stack.enter_context(contextlib.closing(make_games(config, split, recorder)))
            for split in SPLITS
        }
        for split in SPLITS:
            splits[split] = record_split(
                config, recorder, split, games[split], folder / split, tell_more
            )
            num_frames += recorder.share(frames_of(config, split))
    return Share(splits=splits, combos=games["train"].combos)


def make_games(config: RecordingConfig, split: str, recorder: Recorder = Recorder()) -> Games:
    """Start the games of a split, side by side.

    Raises:
        UserError: there is no such game, or it is not installed.
    """
    first_level, num_levels = levels_of(config, split)
    return open_games(
        config.game,
        num_envs=num_envs_of(config, split, recorder),
        first_level=first_level,
        num_levels=num_levels,
        seed=recorder.seed(config.seed),
        distribution=config.distribution,
        plain=config.plain,
        process=recorder.number,
        num_processes=recorder.of,
    )


def num_envs_of(config: RecordingConfig, split: str, recorder: Recorder) -> int:
    """How many games a process plays side by side."""
    if config.num_envs is not None:
        return config.num_envs
    most = NUM_ENVS[is_procgen(config.game)]
    if recorder.of == 1:
        return most
    # A small share of many games would end before their episodes do.
    return min(most, max(1, recorder.share(frames_of(config, split)) // LONGEST_VIDEO))


def levels_of(config: RecordingConfig, split: str) -> tuple[int, int]:
    """Return the first level of a split and their number; the splits share none."""
    if split == "train":
        return 0, config.num_levels
    return FIRST_HELDOUT_LEVEL, config.num_heldout_levels


def frames_of(config: RecordingConfig, split: str) -> int:
    """Stored frames that are wanted of a split."""
    return config.frames if split == "train" else config.heldout_frames


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
    config: RecordingConfig, recorder: Recorder, split: str, games: Games, folder: Path, tell: Tell
) -> Recorded:
    """Record one process' share of one split into `folder`."""
    keeper = make_keeper(config, recorder, folder)
    episodes = play_episodes(
        games,
        make_hand(config, recorder, split, games),
        config.frame_skip,
        recorder.share(frames_of(config, split)),
        keeper.take,
        tell,
    )
    actions = {}
    for count, episode in enumerate(episodes):
        number = count * recorder.of + recorder.number  # no other process has it
        name = f"level-{episode.level:06d}-episode-{number:05d}"
        keeper.keep(name, episode)
        actions[name] = np.array(episode.actions, dtype=np.int64)
    keeper.finish()
    return Recorded(actions=actions, videos=keeper.videos, shards=keeper.shards)


def make_keeper(config: RecordingConfig, recorder: Recorder, folder: Path) -> Keeper:
    """What keeps the episodes of a split."""
    if config.arrays:
        return ArrayKeeper(folder, f"process-{recorder.number:03d}")
    return VideoKeeper(folder, config.fps)


def make_hand(config: RecordingConfig, recorder: Recorder, split: str, games: Games) -> Presser:
    """Who plays the games of a split in a process."""
    # The first level joins the seed so that the two splits are not played alike. The last number
    # changes nothing where it is 0.
    seeds = [config.seed, levels_of(config, split)[0], recorder.number]
    generator = np.random.default_rng(seeds)
    lengths = Lengths.at(games.steps_per_second / config.frame_skip, config.hold_s)
    num_envs = len(games.levels)
    if is_procgen(config.game):
        return HANDS[config.hand](games.combos, num_envs, lengths, generator)
    return Presser(len(games.combos), num_envs, lengths, generator)


def complete(
    config: RecordingConfig, shares: Sequence[Share], folder: Path
) -> dict[str, dict[str, int]]:
    """Write what belongs to all shares; return the counts of each split."""
    true_actions, counts = {}, {}
    for split in SPLITS:
        taken = {
            f"{split}/{name}": own
            for share in shares
            for name, own in share.splits[split].actions.items()
        }
        first_level, num_levels = levels_of(config, split)
        counts[split] = {
            "first_level": first_level,
            "num_levels": num_levels,
            "videos": len(taken),
            "frames": sum(len(own) + 1 for own in taken.values()),
        }
        true_actions |= taken
    np.savez_compressed(folder / "true_actions.npz", **true_actions)
    told = describe(config, counts, shares[0].combos)
    (folder / "recording.json").write_text(json.dumps(told, indent=2) + "\n")
    if config.arrays:
        make_prepared(config, shares, folder)
    return counts


def make_prepared(config: RecordingConfig, shares: Sequence[Share], folder: Path) -> None:
    """Make one prepared folder of the shards of all shares."""
    videos = {split: [v for s in shares for v in s.splits[split].videos] for split in SPLITS}
    card = Card(
        height=SIZE[0],
        width=SIZE[1],
        fps=config.fps,
        **list_videos(videos),
        num_decoded=sum(sum(v.scenes) for own in videos.values() for v in own),
        source={"recording": options_of(config)},
    )
    for split in SPLITS:
        shards = [shard for share in shares for shard in share.splits[split].shards]
        seal(folder / split, shards, split, card)
    write_card(card, folder)


def describe(
    config: RecordingConfig, counts: dict[str, dict], combos: Sequence[tuple[str, ...]]
) -> dict:
    """Return what `recording.json` says; nothing in it depends on when or where it was made."""
    names = ["+".join(buttons) or "NONE" for buttons in combos]
    return {"version": 2, **options_of(config), "splits": counts, "true_actions": names}


def options_of(config: RecordingConfig) -> dict:
    """What a recording depends on."""
    return {name: value for name, value in asdict(config).items() if name != "out"}


if __name__ == "__main__":
    try:
        main(tyro.cli(RecordingConfig))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; nothing is kept", file=sys.stderr)
        sys.exit(130)
