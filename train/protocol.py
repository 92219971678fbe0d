"""A protocol lists the clips on which worlds are scored, so that any implementation can use them.

    python -m train.protocol DATA... --out protocol.json --recorded-by "python examples/..."

In: prepared folders. Out: a JSON file with the video and the frame of every clip's prompt, and the
commands that make the videos again. The held-out videos of each game are one set of clips.
`train.evaluate --protocol` uses the sets that were made from its data. Measures nothing.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tyro

from genie.configs import config_from_dict
from genie.data.card import read_card
from genie.data.clips import FrameStore
from genie.errors import UserError
from genie.files import write_whole, writing
from train.errors import one_line_errors
from train.measure.long_rollouts import longest_scenes, scenes_of
from train.measure.rollouts import HISTORY, check_seed, draw_rows, find_videos

FORMAT_VERSION = 1
RULES = (
    "Of each true video, the model gets only the prompt frame and the latent actions that it "
    "infers from the clip, for which it may see `history` frames before the prompt. It then "
    "generates `horizon` frames by itself. PSNR is each frame's, RGB, 0..255, averaged over clips. "
    "Delta PSNR at t is the PSNR under inferred actions minus that under uniformly random ones, "
    "averaged over three draws per clip. Long rollouts start at the prompts of `long`, and follow "
    "the actions of the true video and, after its end, those of others."
)


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A frame from which a rollout starts."""

    video: str
    """Name of the held-out video, as its recorder gave it."""
    frame: int
    """Its number among the video's prepared frames, from 0."""


@dataclass(frozen=True, kw_only=True)
class ClipSet:
    """Clips from the held-out videos of one game."""

    name: str
    """Name of the prepared folder, followed by that of the game, if it has one."""
    data: str
    """Fingerprint of the held-out videos, from the prepared folder's card."""
    game: str = ""
    """See `genie.data.card.game_of`."""
    height: int
    """Pixels."""
    width: int
    """Pixels."""
    fps: float
    """Frames per second."""
    history: int
    """True frames before a prompt that the latent action model may see."""
    horizon: int
    """Frames to generate after each prompt."""
    clips: tuple[Prompt, ...]
    """Prompts of the rollouts that are compared with the truth."""
    long: tuple[Prompt, ...]
    """Prompts of the long rollouts."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Everything that a score depends on besides the model."""

    version: int = FORMAT_VERSION
    """Version of the file's format."""
    rules: str = RULES
    """How the clips are used, in words."""
    recorded_by: tuple[str, ...] = ()
    """Commands that make the videos again."""
    seed: int = 0
    """Draws the clips, random actions and the sampler's noise."""
    sets: tuple[ClipSet, ...]
    """One per game of each folder, each scored separately."""


@dataclass(frozen=True, kw_only=True)
class ProtocolConfig:
    """Draw the clips of a protocol from the held-out videos of prepared folders."""

    data: tyro.conf.Positional[tuple[Path, ...]]
    """Folders made by train.prepare; best use separate ones for unseen levels and unseen games."""
    out: Path
    """The JSON file to write, or to check."""
    check: bool = False
    """Write nothing; only say whether the existing file fits these folders."""
    recorded_by: tuple[str, ...] = ()
    """Commands that make the videos again, each in quotes."""
    num_clips: int = 256
    """Number of clips in each set."""
    horizon: int = 15
    """Frames after each prompt."""
    seed: int = 0
    """Draws the clips."""


def main(config: ProtocolConfig) -> None:
    """Draw and write, or check.

    Raises:
        UserError: if a folder has no scene that is long enough, or the file cannot be written or
            does not fit.
    """
    check_seed(config.seed)
    if not config.data:
        raise UserError("no folder is given: name one or more made by train.prepare")
    if config.check:
        for folder in config.data:
            print(f"{config.out} fits {folder}: {', '.join(_check(config.out, folder))}")
        return
    protocol = Protocol(
        recorded_by=config.recorded_by,
        seed=config.seed,
        sets=tuple(clips for folder in config.data for clips in _draw(folder, config)),
    )
    _check_distinct(protocol.sets)
    with writing(config.out):
        write_whole(config.out, json.dumps(asdict(protocol), indent=1) + "\n")
    print(f"{config.out}: " + ", ".join(f"{s.name}: {len(s.clips)} clips" for s in protocol.sets))


def _check(path: Path, folder: Path) -> Iterator[str]:
    """Check a protocol against a folder; describe each of the folder's sets."""
    _, sets = find_sets(path, FrameStore.open(folder, "heldout"))
    for clips, part in sets:
        place(clips, part)
        yield f"{len(clips.clips)} clips of {clips.name}"


def _check_distinct(sets: Sequence[ClipSet]) -> None:
    """Refuse two sets of the same videos.

    Raises:
        UserError: naming them.
    """
    for number, one in enumerate(sets):
        for other in sets[:number]:
            if (one.data, one.game) == (other.data, other.game):
                raise UserError(f"{other.name} and {one.name} are the same videos: name them once")


def _draw(folder: Path, config: ProtocolConfig) -> Iterator[ClipSet]:
    card = read_card(folder)
    for game, store in FrameStore.open(folder, "heldout").by_game().items():
        rows = draw_rows(store, config.num_clips, config.horizon, config.seed)
        starts = store.scene_starts[longest_scenes(store)]
        yield ClipSet(
            name="/".join(filter(None, (folder.resolve().name, game))),
            data=store.split_fingerprint,
            game=game,
            height=card.height,
            width=card.width,
            fps=card.fps,
            history=HISTORY,
            horizon=config.horizon,
            clips=_prompts(store, rows + HISTORY),
            long=_prompts(store, starts + HISTORY),
        )


def _prompts(store: FrameStore, rows: np.ndarray) -> tuple[Prompt, ...]:
    videos = find_videos(store, rows)
    frames = rows - store.video_starts[videos]
    return tuple(
        Prompt(video=store.video_names[number], frame=int(frame))
        for number, frame in zip(videos, frames, strict=True)
    )


def read_protocol(path: Path, data: str) -> tuple[Protocol, dict[str, ClipSet]]:
    """Read a protocol and, by game, its sets that were made from these videos.

    Args:
        data: fingerprint of the held-out videos.

    Raises:
        UserError: if the file is not a protocol, is for other videos, or contradicts itself.
    """
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} ({error}): give a file of train.protocol") from error
    if not isinstance(values, dict) or values.get("version") != FORMAT_VERSION:
        raise UserError(f"{path} is no protocol of version {FORMAT_VERSION}: make it again")
    protocol = config_from_dict(Protocol, values, where=str(path))
    check_seed(protocol.seed)
    _check_distinct(protocol.sets)
    sets = {clips.game: clips for clips in protocol.sets if clips.data == data}
    if not sets:
        known = ", ".join(f"{clips.name} ({clips.data})" for clips in protocol.sets) or "none"
        raise UserError(
            f"{path} is for other videos than these ({data}): it has {known}; prepare those videos "
            "or make the protocol again"
        )
    return protocol, sets


def find_sets(path: Path, store: FrameStore) -> tuple[Protocol, list[tuple[ClipSet, FrameStore]]]:
    """Read a protocol and, with the videos of its game, each set that was made from this split.

    Raises:
        UserError: see `read_protocol`; or if the games are not the same.
    """
    protocol, sets = read_protocol(path, store.split_fingerprint)
    stores = store.by_game()
    for game in sets:
        if game not in stores:
            raise UserError(f"{path} names a game {game!r} that the data lacks: make it again")
    missing = sorted(stores.keys() - sets.keys())
    if missing:
        raise UserError(f"{path} lacks the game {missing[0]!r} of the data: make it again")
    return protocol, [(clips, stores[game]) for game, clips in sets.items()]


def place(clips: ClipSet, store: FrameStore) -> tuple[np.ndarray, np.ndarray]:
    """Find the rows of a store at which clips and long rollouts begin, their history included.

    Raises:
        UserError: if there are no prompts, the frames have another size or rate, or a clip is not
            within a scene of its video.
    """
    if ((clips.height, clips.width), clips.fps) != (store.size, store.fps):
        raise UserError(
            f"the protocol's {clips.name} has frames of {clips.height}x{clips.width} at "
            f"{clips.fps:g} a second, the data has {store.size[0]}x{store.size[1]} at "
            f"{store.fps:g}: make it again"
        )
    if clips.history != HISTORY or clips.horizon < 1:
        raise UserError(
            f"the protocol has history {clips.history} and horizon {clips.horizon}: this version "
            f"measures with history {HISTORY} and a horizon of 1 or more; make it again"
        )
    placed = []
    for prompts, horizon in ((clips.clips, clips.horizon), (clips.long, 0)):
        if not prompts:
            raise UserError(f"the protocol has no clips of {clips.name}: make it again")
        placed.append(np.array([_row(prompt, horizon, store) for prompt in prompts]) - HISTORY)
    starts = set(store.scene_starts.tolist())
    for prompt, row in zip(clips.long, placed[1].tolist(), strict=True):
        if row not in starts:
            raise UserError(
                f"the protocol's long rollout at frame {prompt.frame} of {prompt.video} is not at "
                "a scene's beginning: make it again"
            )
    return placed[0], placed[1]


def _row(prompt: Prompt, horizon: int, store: FrameStore) -> int:
    """The row of a prompt, checked to have its history and its horizon within one scene.

    Raises:
        UserError: if the video or the frames are missing, or a cut is between them.
    """
    if prompt.video not in store.video_names:
        raise UserError(f"the protocol's video {prompt.video} is not in the data: make it again")
    number = store.video_names.index(prompt.video)
    start, stop = store.video_starts[number : number + 2].tolist()
    first, last = prompt.frame - HISTORY, prompt.frame + horizon
    if first >= 0 and last < stop - start:
        row = start + prompt.frame
        scenes = scenes_of(np.array([row - HISTORY, row + horizon]), store)
        if scenes[0] == scenes[1]:
            return row
    raise UserError(
        f"the protocol's clip at frame {prompt.frame} of {prompt.video} is not within a scene of "
        "it: make it again"
    )


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(ProtocolConfig, description=__doc__))
