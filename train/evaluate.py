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

from genie.checkpoint import check_folder
from genie.data import FrameStore
from genie.errors import UserError
from genie.world import World
from train.figures import (
    delta_psnr_figures,
    latency_figures,
    likeness,
    rollout_figures,
    scroll_figures,
    usage_figures,
)
from train.long_rollouts import LONG_STEPS, long_figures, run_on
from train.pictures import draw_long, draw_pictures, write
from train.protocol import read_protocol, rows_of
from train.report import page
from train.rollouts import HISTORY, draw_rows, infer, read_clips, reconstruct, roll
from train.stage import one_line_errors
from train.table import compare, table
from train.true_actions import TrueActions, true_action_figures

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
    """true_actions.npz of the recording, with recording.json beside it; adds NMI and probe."""
    num_clips: int = 256
    """Held-out clips to roll out (fewer if there are fewer)."""
    horizon: int = 15
    """Frames to generate from each prompt frame."""
    long_steps: int = 1000
    """Frames that some films run on for, to see how long the world holds up; below 10 leaves it
    out."""
    protocol: Path | None = None
    """File of train.protocol that names the clips; num_clips, horizon and seed are the file's
    then."""
    against: Path | None = None
    """metrics.json of another world on the same clips, to be held beside."""
    seed: int = 0
    """Draws clips, random actions and the sampler's noise."""
    out: Path = Path("report")
    """Folder for report.html, metrics.json and the pictures; made if need be."""


def main(config: EvaluateConfig) -> None:
    """Evaluate, write everything to `config.out` and print a table.

    Raises:
        UserError: if a file or a flag does not fit, or `config.out` cannot be written.
    """
    check_folder(config.out)
    other = read_figures(config.against) if config.against else None
    world = World.from_pretrained(config.world)
    store = FrameStore.open(config.data, "heldout")
    horizon, seed = config.horizon, config.seed
    if config.protocol:
        protocol, clips = read_protocol(config.protocol, store)
        rows, horizon, seed = rows_of(clips, store), clips.horizon, protocol.seed
    else:
        rows = draw_rows(store, config.num_clips, horizon, seed)
    if other:
        facts = {"num_clips": len(rows), "horizon": horizon, "seed": seed}
        check_same_clips(facts | {"data": store.fingerprint}, other, config.against)
    figures = evaluate(
        world,
        store,
        config.true_actions,
        rows=rows,
        horizon=horizon,
        long_steps=config.long_steps,
        seed=seed,
        pictures=config.out,
    )
    write(config.out / "metrics.json", json.dumps(figures, indent=2).encode() + b"\n")
    write(config.out / "report.html", page(figures, config.out, other).encode())
    print(table(figures))
    if other:
        print(*compare(figures, other), sep="\n")
    print(f"written to {config.out}: report.html, metrics.json and pictures")


@torch.no_grad()
def evaluate(
    world: World,
    store: FrameStore,
    true_actions: Path | None = None,
    *,
    num_clips: int = 256,
    rows: np.ndarray | None = None,
    horizon: int = 15,
    long_steps: int = 0,
    seed: int = 0,
    pictures: Path | None = None,
) -> dict:
    """Measure `world` on the videos of `store` and return every figure, ready for JSON.

    PSNR in dB, latencies in ms, scrolls in pixels (dx > 0: the view moves right, dy > 0: up).
    `psnr` is the mean over frames of each frame's PSNR, where an identical frame counts 60 dB;
    `psnr_pooled` is the PSNR of the mean squared error over the same frames.

    Args:
        world: in evaluation mode.
        store: held-out videos.
        true_actions: npz file with the buttons that were pressed; None leaves NMI and probe out.
        num_clips: clips to roll out; fewer are taken if there are fewer.
        rows: where the clips begin, their history included; None draws them.
        horizon: frames to generate from each prompt frame.
        long_steps: frames that some films run on for; none run on for fewer than 10.
        seed: draws clips, random actions and the sampler's noise.
        pictures: folder for pictures; None draws none.

    Raises:
        UserError: if sizes do not fit, the videos are too short, or `true_actions` is not theirs.
    """
    check_sizes(world, store)
    rows = draw_rows(store, num_clips, horizon, seed) if rows is None else rows
    clips, video_ids = read_clips(store, rows, horizon)
    # The one part that can still fail comes before the minutes of rollouts.
    truth = TrueActions.open(true_actions) if true_actions else None
    agreement = true_action_figures(world, store, truth, horizon, seed) if truth else None
    rendered = reconstruct(world, clips)
    actions = infer(world, clips)
    prompts, future = clips[:, HISTORY], clips[:, HISTORY + 1 :]
    generated = roll(world, prompts, actions[:, HISTORY:], seed, "rollout")
    running_on = run_on(world, store, long_steps, seed) if long_steps >= LONG_STEPS[0] else None
    if pictures:
        draw_pictures(world, clips[:, HISTORY:], generated, pictures, seed=seed)
    if pictures and running_on:
        draw_long(running_on.windows, pictures)
    return {
        "world": world.name,
        "data": store.fingerprint,
        "num_clips": len(clips),
        "num_videos": len(np.unique(video_ids)),
        "horizon": horizon,
        "seed": seed,
        "tokenizer": likeness(rendered.flatten(0, 1), clips.flatten(0, 1)),
        "rollout": rollout_figures(generated, future, prompts, rendered[:, HISTORY + 1 :]),
        "delta_psnr": delta_psnr_figures(world, generated, future, prompts, seed),
        "latent_action": usage_figures(actions, world.num_actions),
        "true_actions": agreement,
        "scroll": scroll_figures(world, prompts[:NUM_HELD_PROMPTS], seed),
        "long": long_figures(world, store, running_on, seed) if running_on else {},
        "latency": latency_figures(world, prompts[0], seed),
    }


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
    if not isinstance(figures, dict) or not figures.keys() >= SAME_CLIPS:
        raise UserError(f"{path} is not metrics.json of this version's train.evaluate")
    return figures


def check_same_clips(figures: dict, other: dict, path: Path) -> None:
    """Refuse to hold figures of different clips beside each other.

    Raises:
        UserError: naming what differs.
    """
    for name in sorted(SAME_CLIPS):
        if figures[name] != other[name]:
            raise UserError(
                f"{path} was measured on other clips ({name}: {other[name]} there, "
                f"{figures[name]} here): evaluate both worlds with the same data and options"
            )


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(EvaluateConfig))
