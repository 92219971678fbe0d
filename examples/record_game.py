"""Record a real game into ordinary video files, or directly into a prepared folder.

Out: one lossless video per episode in `OUT/train` and, of other levels, in `OUT/heldout`; with
`--arrays` what `python -m train.prepare --no-cuts` would make from them, in a fraction of the time.
`OUT/recording.json` says how they were made. The buttons that were pressed are written to
`OUT/true_actions.npz`, which only the evaluation opens, never the training.
`games.py` contains the games, `players.py` the players. Labels and shuffles nothing.

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
from acting import Actor
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
from options import LARGEST_SEED, check_ranges
from players import HANDS, Lengths, Player, Presser
from recorders import Tell, side_by_side
from tqdm import tqdm
from trained import load

from genie import video
from genie.data.card import SPLITS, Card
from genie.data.shards import Shard, StoredVideo, list_videos, seal, write_card
from genie.errors import UserError

FIRST_HELDOUT_LEVEL = 1_000_000
NUM_ENVS = {True: 64, False: 16}  # of Procgen, whose pictures are small and fast; of others


@dataclass(frozen=True, kw_only=True)
class RecordingConfig:
    """Record episodes of a game, played automatically, as lossless videos or arrays."""

    game: str
    """One of the 16 Procgen games, such as coinrun, ninja, climber or jumper, or a Gymnasium id,
    such as ALE/Boxing-v5 (Atari) or CartPole-v1."""
    out: Path
    """Folder to create; it appears when the recording is complete."""
    frames: int = 160_000
    """Total number of stored training frames."""
    heldout_frames: int = 20_000
    """Total number of stored frames from levels that training never sees."""
    num_levels: int = 2000
    """Training levels, counted from level 0 (at most 1,000,000). Gymnasium's are seeds."""
    num_heldout_levels: int = 500
    """Held-out levels, counted from level 1,000,000."""
    distribution: Literal["easy", "hard"] = "easy"
    """Procgen's difficulty."""
    hand: str = "wander"
    """Player of Procgen: wander goes right and left in turn; explore also frees itself where it is
    stuck, so that it gets to the upper parts of climber and jumper. Of any game: the file of a
    player that examples/expert.py has trained."""
    plain: bool = False
    """Without Procgen's backgrounds and with a single theme: a far easier world to learn."""
    frame_skip: int = 2
    """Game steps per stored frame."""
    hold_s: tuple[float, float] = (0.13, 0.4)
    """Least and most seconds of the game for which a button is held. Procgen has 30 game steps per
    second, Atari 60, others what they declare, or else 30."""
    fps: float = 15.0
    """Frames per second that the videos declare."""
    seed: int = 0
    """The same seed and options give the same frames, actions and file names."""
    num_envs: int | None = None
    """Games played side by side in each process. Default: 64 for Procgen, 16 for others, fewer if
    several processes have little to record."""
    arrays: bool = False
    """Write a prepared folder of 64x64 frames for python -m train --data instead of videos, whose
    encoding takes several times as long as the games."""
    processes: int = 1
    """Processes among which the recording is divided, each with its own games; best one per core.
    Another number gives another recording, as another seed does."""


def main(config: RecordingConfig) -> None:
    """Record both splits into a temporary folder, then rename it to `config.out`.

    Raises:
        UserError: a value is out of range, `out` exists or cannot be written, there is no such
            game, its package is not installed, it breaks down, or a process was killed.
    """
    check(config)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # to delete the temporary folder
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
    """Reject invalid options before anything is written."""
    low, high = config.hold_s
    if not 0 < low <= high < math.inf:
        raise UserError(f"--hold-s is {low:g} {high:g}; give two times in seconds, shorter first")
    fewest = SHORTEST_EPISODE * max(1, config.processes)
    ranges = {
        "processes": (1, None),
        "frames": (fewest, None),
        "heldout_frames": (fewest, None),
        # For Procgen, 0 levels means all levels, which would mix the two splits.
        "num_levels": (1, FIRST_HELDOUT_LEVEL),
        "num_heldout_levels": (1, FIRST_HELDOUT_LEVEL),
        "frame_skip": (1, 16),  # with more, hardly any episode is long enough
        "fps": (1, video.MAX_FPS),
        "seed": (0, LARGEST_SEED),
    }
    check_ranges(config, ranges)
    if config.hand not in HANDS and not is_trained(config):
        raise UserError(
            f"--hand is {config.hand}: give {', '.join(HANDS)}, or the .zip file of a player"
        )
    is_default = config.distribution == "easy" and config.hand != "explore" and not config.plain
    if not is_procgen(config.game) and not is_default:
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


def is_trained(config: RecordingConfig) -> bool:
    """Whether a trained player plays."""
    return config.hand.endswith(".zip")


@dataclass(frozen=True)
class Recorder:
    """One of the processes among which a recording is divided."""

    number: int = 0
    of: int = 1

    def share(self, total: int) -> int:
        """Number of frames, out of `total`, that this process records."""
        return total // self.of + (self.number < total % self.of)

    def seed(self, seed: int) -> int:
        """Seed of this process; the first one uses the command's seed."""
        if self.number == 0:
            return seed
        drawn = np.random.SeedSequence([seed, self.number]).generate_state(1)[0]
        return int(drawn) % (LARGEST_SEED + 1)


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What one process recorded of one split."""

    actions: dict[str, np.ndarray]
    """int64 (t-1) of each video by its name, in the order in which the videos ended."""
    videos: list[StoredVideo]
    """See `Keeper`; empty without --arrays."""
    shards: list[Shard]


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one process recorded."""

    splits: dict[str, Recorded]
    combos: list[tuple[str, ...]]
    """See `Games`."""


@contextlib.contextmanager
def record_shares(config: RecordingConfig, folder: Path) -> Iterator[list[Share]]:
    """Record both splits, in this process or in several, which end when the context is left.

    Raises:
        UserError: see `main`.
    """
    with contextlib.ExitStack() as stack:
        bar: tqdm | None = None  # opened with the first frames: before, an error is a line alone

        def tell(num_frames: int) -> None:
            nonlocal bar
            if bar is None:
                total = config.frames + config.heldout_frames
                bar = tqdm(total=total, desc=config.game, unit=" frames")
                stack.enter_context(bar)
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
        # Closed explicitly: if the garbage collector does it while others start, gym3 hangs.
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
    """Number of games that a process plays side by side."""
    if config.num_envs is not None:
        return config.num_envs
    most = NUM_ENVS[is_procgen(config.game)]
    if recorder.of == 1:
        return most
    # With many games and a small share, the recording would end before any episode does.
    return min(most, max(1, recorder.share(frames_of(config, split)) // LONGEST_VIDEO))


def levels_of(config: RecordingConfig, split: str) -> tuple[int, int]:
    """Return the first level of a split and the number of levels; the splits share none."""
    if split == "train":
        return 0, config.num_levels
    return FIRST_HELDOUT_LEVEL, config.num_heldout_levels


def frames_of(config: RecordingConfig, split: str) -> int:
    """Number of frames to store of a split."""
    return config.frames if split == "train" else config.heldout_frames


@contextlib.contextmanager
def temporary_folder(beside: Path) -> Iterator[Path]:
    """Make a hidden folder next to `beside` and delete it afterwards, also after an error.

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
        number = count * recorder.of + recorder.number  # unique among all processes
        name = f"level-{episode.level:06d}-episode-{number:05d}"
        keeper.keep(name, episode)
        actions[name] = np.array(episode.actions, dtype=np.int64)
    keeper.finish()
    return Recorded(actions=actions, videos=keeper.videos, shards=keeper.shards)


def make_keeper(config: RecordingConfig, recorder: Recorder, folder: Path) -> Keeper:
    """Create what stores the episodes of a split."""
    if config.arrays:
        return ArrayKeeper(folder, f"process-{recorder.number:03d}")
    return VideoKeeper(folder, config.fps)


def make_hand(config: RecordingConfig, recorder: Recorder, split: str, games: Games) -> Player:
    """Create the player of a split's games in a process.

    Raises:
        UserError: if the file of a trained player cannot be used.
    """
    # The first level is part of the seed, so that the two splits are played differently. The last
    # number changes nothing if it is 0.
    seeds = [config.seed, levels_of(config, split)[0], recorder.number]
    generator = np.random.default_rng(seeds)
    lengths = Lengths.at(games.steps_per_second / config.frame_skip, config.hold_s)
    num_envs = len(games.levels)
    if is_trained(config):
        shares = load(Path(config.hand), config.game, len(games.combos))
        return Actor(shares, num_envs, generator)
    if is_procgen(config.game):
        return HANDS[config.hand](games.combos, num_envs, lengths, generator)
    return Presser(len(games.combos), num_envs, lengths, generator)


def complete(
    config: RecordingConfig, shares: Sequence[Share], folder: Path
) -> dict[str, dict[str, int]]:
    """Write the files that all shares have in common; return the counts of each split."""
    true_actions, counts = {}, {}
    for split in SPLITS:
        actions = {
            f"{split}/{name}": own
            for share in shares
            for name, own in share.splits[split].actions.items()
        }
        first_level, num_levels = levels_of(config, split)
        counts[split] = {
            "first_level": first_level,
            "num_levels": num_levels,
            "videos": len(actions),
            "frames": sum(len(own) + 1 for own in actions.values()),
        }
        true_actions |= actions
    np.savez_compressed(folder / "true_actions.npz", **true_actions)
    description = describe(config, counts, shares[0].combos)
    (folder / "recording.json").write_text(json.dumps(description, indent=2) + "\n")
    if config.arrays:
        make_prepared(config, shares, folder)
    return counts


def make_prepared(config: RecordingConfig, shares: Sequence[Share], folder: Path) -> None:
    """Combine the shards of all shares into one prepared folder."""
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
    """Return the content of `recording.json`; it does not depend on when or where it was made."""
    names = ["+".join(buttons) or "NONE" for buttons in combos]
    return {"version": 2, **options_of(config), "splits": counts, "true_actions": names}


def options_of(config: RecordingConfig) -> dict:
    """The options that a recording depends on."""
    return {name: value for name, value in asdict(config).items() if name != "out"}


if __name__ == "__main__":
    try:
        main(tyro.cli(RecordingConfig))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; nothing was saved", file=sys.stderr)
        sys.exit(130)
