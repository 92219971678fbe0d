"""A world and held-out videos in, figures and pictures out.

    python -m train.evaluate WORLD DATA --true-actions data/coinrun/true_actions.npz --out report

Every figure comes from videos that training never saw. Rollouts run free from one prompt frame:
the true video lends them its latent actions, which the latent action model infers, and nothing
else. Writes `metrics.json`, pictures, and `report.html`, which holds all of it; the same seed gives
the same figures again, but for the latency.
Does not judge: the reader compares the figures with the baselines beside them.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from tqdm import tqdm

from genie.data.clips import FrameStore
from genie.errors import UserError
from genie.files import check_folder
from genie.places import find_world
from genie.playable import Playable, open_world
from genie.world import World
from train.errors import one_line_errors
from train.measure.figures import (
    delta_psnr_figures,
    first_frames,
    latency_figures,
    latent_action_figures,
    likeness,
    rollout_figures,
    scroll_figures,
)
from train.measure.long_rollouts import (
    LONG_STEPS,
    long_figures,
    longest_scenes,
    run_on,
    scenes_of,
    steps_to_look_at,
)
from train.measure.networks import Supplied
from train.measure.pictures import draw_long, draw_pictures, write
from train.measure.report import page
from train.measure.rollouts import HISTORY, draw_rows, infer, read_clips, reconstruct, roll
from train.measure.table import by_game, compare, main_figures, table
from train.measure.true_actions import TrueActions, true_action_figures
from train.protocol import find_sets, place

NUM_HELD_PROMPTS = 32
SAME_CLIPS = {"data", "num_clips", "horizon", "seed"}


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Measure a world on held-out videos; write figures and pictures."""

    world: tyro.conf.Positional[Path]
    """Checkpoint folder of the world."""
    data: tyro.conf.Positional[Path]
    """Folder made by train.prepare; only its held-out videos are read."""
    true_actions: Path | None = None
    """true_actions.npz of the recording, or the folder of recordings, one a game; adds NMI and
    probe."""
    num_clips: int = 256
    """Held-out clips to roll out (fewer if there are fewer)."""
    horizon: int = 15
    """Frames to generate from each prompt frame."""
    long_steps: int = 1000
    """Frames that some films run on for, to see how long the world holds up: up to 1,000, and
    looked at after 10, 50, 100, 300 and 1,000 of them. Below 10 leaves it out."""
    protocol: Path | None = None
    """File of train.protocol that names the clips; num_clips, horizon and seed are the file's
    then."""
    against: Path | None = None
    """metrics.json of another world on the same clips, to be held beside."""
    lpips_network: Path | None = None
    """TorchScript file of LPIPS, for which two batches of frames in -1..1 are a distance each."""
    fvd_network: Path | None = None
    """TorchScript file of I3D, such as i3d_torchscript.pt."""
    fid_network: Path | None = None
    """TorchScript file of Inception, such as inception-2015-12-05.pt."""
    seed: int = 0
    """Draws clips, random actions and the sampler's noise."""
    out: Path = Path("report")
    """Folder for report.html, metrics.json and the pictures; made if need be."""


@dataclass(frozen=True)
class Work:
    """What a world is measured on: held-out videos of one game, and which clips of them."""

    store: FrameStore
    rows: np.ndarray
    """Where clips begin, their history included."""
    scenes: np.ndarray
    """Numbers of the scenes from whose beginnings films run on."""
    horizon: int
    """Frames to generate from each prompt frame."""
    seed: int
    """Draws random actions and the sampler's noise."""

    @property
    def facts(self) -> dict:
        """What must be the same for figures to be comparable."""
        return {
            "data": self.store.split_fingerprint,
            "num_clips": len(self.rows),
            "horizon": self.horizon,
            "seed": self.seed,
        }


def main(config: EvaluateConfig) -> None:
    """Evaluate, write everything to `config.out` and print a table.

    Raises:
        UserError: if a file or a flag does not fit, or `config.out` cannot be written.
    """
    if config.long_steps > LONG_STEPS[-1]:
        raise UserError(f"--long-steps is {config.long_steps}: give {LONG_STEPS[-1]} or fewer")
    check_folder(config.out)
    other = read_figures(config.against) if config.against else None
    world = World.from_pretrained(config.world)
    store = FrameStore.open(config.data, "heldout")
    check_sizes(world, store)
    works = plan(config, store)
    if other:
        check_same_clips({game: work.facts for game, work in works.items()}, other, config.against)
    truth = TrueActions.open(config.true_actions) if config.true_actions else None
    supplied = Supplied.open(config.lpips_network, config.fvd_network, config.fid_network)
    for work in works.values() if truth else ():
        truth.of_store(work.store)  # what does not fit is told before the minutes of rollouts
    games = {}
    for game, work in tqdm(works.items(), "games", leave=False, disable=len(works) == 1 or None):
        games[game] = evaluate(
            world,
            work,
            truth,
            supplied=supplied,
            long_steps=config.long_steps,
            pictures=config.out / game,
            player=open_world(find_world(config.world)),
        )
    figures = games[""] if games.keys() == {""} else joined(games)
    write(config.out / "metrics.json", json.dumps(figures, indent=2).encode() + b"\n")
    write(config.out / "report.html", page(figures, config.out, other).encode())
    print(table(figures))
    if other:
        print(*compare(figures, other), sep="\n")
    print(f"written to {config.out}: report.html, metrics.json and pictures")


def plan(config: EvaluateConfig, store: FrameStore) -> dict[str, Work]:
    """The work by game, as the protocol says or as the seed draws it.

    Raises:
        UserError: if the protocol is not for these videos, or lacks a game of theirs, or they are
            too short.
    """
    if not config.protocol:
        return {
            game: draw_work(part, config.num_clips, config.horizon, config.seed)
            for game, part in store.by_game().items()
        }
    protocol, sets = find_sets(config.protocol, store)
    works = {}
    for clips, part in sets:
        rows, long = place(clips, part)
        scenes = scenes_of(long, part)
        works[clips.game] = Work(part, rows, scenes, clips.horizon, protocol.seed)
    return works


def draw_work(store: FrameStore, num_clips: int = 256, horizon: int = 15, seed: int = 0) -> Work:
    """Clips drawn by the seed, fewer if there are fewer, and the longest scenes.

    Raises:
        UserError: if no video is long enough.
    """
    rows = draw_rows(store, num_clips, horizon, seed)
    return Work(store, rows, longest_scenes(store), horizon, seed)


@torch.no_grad()
def evaluate(
    world: World,
    work: Work,
    truth: TrueActions | None = None,
    *,
    supplied: Supplied | None = None,
    long_steps: int = 0,
    pictures: Path | None = None,
    player: Playable | None = None,
) -> dict:
    """Measure `world` on held-out videos and return every figure, ready for JSON.

    PSNR in dB, latencies in ms, scrolls in pixels (dx > 0: the view moves right, dy > 0: up).
    `psnr` is the mean over frames of each frame's PSNR, where an identical frame counts 60 dB;
    `psnr_pooled` is the PSNR of the mean squared error over the same frames.

    Args:
        world: in evaluation mode.
        work: videos and clips, of the world's size.
        truth: the buttons that were pressed; None leaves NMI and probe out.
        supplied: networks for figures that want one.
        long_steps: frames that some films run on for; none run on for fewer than 10.
        pictures: folder for pictures; None draws none.
        player: the world as play opens it, for the latency; None takes it as it is.

    Raises:
        UserError: if the true actions are not those of these videos, or are too few; if a network
            that was supplied does not take the frames.
    """
    store, horizon, seed = work.store, work.horizon, work.seed
    agreement = true_action_figures(world, store, truth, horizon, seed) if truth else None
    clips, video_ids = read_clips(store, work.rows, horizon)
    rendered = reconstruct(world, clips)
    actions = infer(world, clips)
    prompts, future = clips[:, HISTORY], clips[:, HISTORY + 1 :]
    generated = roll(world, prompts, actions[:, HISTORY:], seed, "rollout")
    by_networks = (supplied or Supplied()).figures(generated, future, prompts)
    steps = steps_to_look_at(long_steps)
    running_on = run_on(world, store, work.scenes, steps, seed) if steps else None
    if pictures:
        (pictures / "long.png").unlink(missing_ok=True)  # of an earlier evaluation
        draw_pictures(world, clips[:, HISTORY:], generated, pictures, seed=seed)
    if pictures and running_on:
        draw_long(running_on.windows, pictures)
    rollout = rollout_figures(generated, future, prompts, rendered[:, HISTORY + 1 :], video_ids)
    return {
        "world": world.name,
        **work.facts,
        "num_videos": len(np.unique(video_ids)),
        "tokenizer": likeness(rendered.flatten(0, 1), clips.flatten(0, 1)),
        "rollout": rollout,
        "first_frames": first_frames(rollout),
        **by_networks,
        "delta_psnr": delta_psnr_figures(world, generated, future, prompts, video_ids, seed),
        "latent_action": latent_action_figures(clips, actions, world.num_actions),
        "true_actions": agreement,
        "scroll": scroll_figures(world, prompts[:NUM_HELD_PROMPTS], seed),
        "long": long_figures(world, store, running_on, seed) if running_on else {},
        "latency": latency_figures(player or world, prompts[0], seed),
    }


def joined(games: dict[str, dict]) -> dict:
    """Figures of several games, or of one that has a name, as one dict; `mean` is over them."""
    first = next(iter(games.values()))
    figures = {"world": first["world"], "data": first["data"], "games": games}
    return figures | {"mean": main_figures(figures)}


def check_sizes(world: World, store: FrameStore) -> None:
    """Refuse frames that the world was not made for.

    Raises:
        UserError: if the sizes differ.
    """
    if tuple(world.size) != tuple(store.size):
        wanted, got = ("x".join(map(str, size)) for size in (world.size, store.size))
        raise UserError(
            f"the world wants frames of {wanted} but the data has {got}: "
            "prepare the videos again at the world's size"
        )


def read_figures(path: Path) -> dict:
    """The figures of an evaluation.

    Raises:
        UserError: if the file is none.
    """
    try:
        figures = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} ({error}): give metrics.json of a report") from error
    parts = by_game(figures) if isinstance(figures, dict) else None
    try:
        known = all(part.keys() >= SAME_CLIPS for part in parts.values())
        list(compare(figures, figures))  # told now, not after the work
    except (AttributeError, KeyError, TypeError, ValueError):
        known = False
    if not known:
        raise UserError(
            f"{path} does not hold figures of this version: give metrics.json of its train.evaluate"
        )
    return figures


def check_same_clips(works: dict[str, dict], other: dict, path: Path) -> None:
    """Refuse to hold figures of different clips beside each other.

    Args:
        works: by game, see `Work.facts`.

    Raises:
        UserError: naming what differs.
    """
    others = by_game(other)
    if works.keys() != others.keys():
        here, there = (", ".join(games) or "none by name" for games in (works, others))
        raise UserError(f"{path} was measured on other games ({there}) than these ({here})")
    for game, facts in works.items():
        for name in sorted(SAME_CLIPS):
            if facts[name] != others[game][name]:
                raise UserError(
                    f"{path} was measured on other clips ({name}: {others[game][name]} there, "
                    f"{facts[name]} here): evaluate both worlds with the same data and options"
                )


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(EvaluateConfig))
