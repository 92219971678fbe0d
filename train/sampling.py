"""`python -m train.sampling WORLD DATA`: which way of drawing frames a world plays best with.

Every number of MaskGIT passes and every order of revealing rolls out the same held-out clips; the
quickest that is within `NEAR_BEST` dB of the best is named at the end. Changes nothing.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import tyro
from jaxtyping import UInt8
from torch import Tensor

from genie import metrics, video
from genie.checkpoint import check_folder, write_whole
from genie.data import FrameStore
from genie.errors import UserError
from genie.session import SamplingConfig
from genie.world import World
from train.evaluate import check_sizes
from train.figures import latency_figures
from train.rollouts import HISTORY, draw_clips, infer, roll
from train.stage import one_line_errors

NEAR_BEST = 0.3
SHOWN_STEPS = (1, 4, 8, 15)
DELTA_STEP = 4  # the paper's t of delta-t PSNR
Order = Literal["confidence", "mixed", "random"]
CHOICE_TEMPERATURES: dict[Order, float] = {"confidence": 0.0, "mixed": 1.0, "random": 1e6}


@dataclass(frozen=True, kw_only=True)
class SamplingSweep:
    """Measure a world under several ways of drawing its frames."""

    world: tyro.conf.Positional[Path]
    """Checkpoint folder of the world."""
    data: tyro.conf.Positional[Path]
    """Folder made by train.prepare; only its held-out videos are read."""
    passes: tuple[int, ...] = (1, 2, 4, 8, 25)
    """MaskGIT passes over a frame."""
    orders: tuple[Order, ...] = ("confidence", "mixed", "random")
    """Which tokens a pass reveals: the surest, the surest with noise, any."""
    temperatures: tuple[float, ...] = ()
    """Of the token draws; without it, the world's own."""
    guidances: tuple[float, ...] = ()
    """By the action; without it, the world's own."""
    num_clips: int = 64
    """Held-out clips to roll out."""
    horizon: int = 15
    """Frames to generate from each prompt frame."""
    seed: int = 0
    """Draws clips, random actions and the sampler's noise."""
    out: Path = Path("report")
    """Folder for sampling.json; made if need be."""


@torch.no_grad()
def main(config: SamplingSweep) -> None:
    """Print a table as it comes, and write it.

    Raises:
        UserError: if a file or a flag does not fit, or `config.out` cannot be written.
    """
    check_folder(config.out)
    world = World.from_pretrained(config.world)
    store = FrameStore.open(config.data, "heldout")
    check_sizes(world, store)
    samplings = settings(config, world.config.sampling)
    clips, _ = draw_clips(store, config.num_clips, config.horizon, config.seed)
    actions = infer(world, clips)[:, HISTORY:]
    print(header(config.horizon))
    rows = []
    for order, sampling in samplings:
        world.config = replace(world.config, sampling=sampling)
        rows.append({"order": order} | measure(world, sampling, clips, actions, config.seed))
        print(line(rows[-1]), flush=True)
    chosen = choose(rows)
    config.out.mkdir(parents=True, exist_ok=True)
    write_whole(
        config.out / "sampling.json", json.dumps({"rows": rows, "chosen": chosen}, indent=1)
    )
    print(f"the quickest within {NEAR_BEST} dB of the best on average:\n{line(chosen)}")


def settings(config: SamplingSweep, own: SamplingConfig) -> list[tuple[str, SamplingConfig]]:
    """Name of the order, and what to sample with; a single pass has no order.

    Raises:
        UserError: if a value is out of range.
    """
    if min((*config.passes, 1)) < 1 or not config.passes or not config.orders:
        raise UserError("--passes wants numbers from 1 up, --orders at least one")
    return [
        ("-" if steps == 1 else order, replace(
            own,
            maskgit_steps=steps,
            choice_temperature=CHOICE_TEMPERATURES[order],
            temperature=temperature,
            guidance=guidance,
        ))
        for guidance in config.guidances or (own.guidance,)
        for temperature in config.temperatures or (own.temperature,)
        for steps in config.passes
        for order in (config.orders[:1] if steps == 1 else config.orders)
    ]  # fmt: skip


def measure(
    world: World,
    sampling: SamplingConfig,
    clips: UInt8[Tensor, "b t 3 h w"],
    actions: Tensor,
    seed: int,
) -> dict:
    """Likeness to the truth by step in dB, what the actions are worth, and time."""
    prompts, future = clips[:, HISTORY], clips[:, HISTORY + 1 :]
    frames = roll(world, prompts, actions, seed, "rollout")
    errors = [
        metrics.psnr(video.to_float(found), video.to_float(truth)).mean().item()
        for found, truth in zip(frames.unbind(1), future.unbind(1), strict=True)
    ]
    return {
        "passes": sampling.maskgit_steps,
        "temperature": sampling.temperature,
        "guidance": sampling.guidance,
        "psnr": errors,
        "mean_psnr": sum(errors) / len(errors),
        "delta_psnr": delta_psnr(world, prompts, future, frames, seed),
        "ms": latency_figures(world, prompts[0], seed)["p50_ms"],
    }


def delta_psnr(
    world: World, prompts: Tensor, future: Tensor, frames: Tensor, seed: int
) -> float | None:
    """PSNR under the inferred actions minus that under random ones, at step 4 (one draw)."""
    if future.shape[1] < DELTA_STEP:
        return None
    generator = torch.Generator().manual_seed(seed)
    size = (len(prompts), DELTA_STEP)
    drawn = torch.randint(world.num_actions, size, generator=generator)
    strayed = roll(world, prompts, drawn, seed, "random actions")
    truth, led, other = (
        video.to_float(each[:, DELTA_STEP - 1]) for each in (future, frames, strayed)
    )
    return metrics.delta_psnr(truth, led, other).mean().item()


def choose(rows: list[dict]) -> dict:
    """The quickest row that is near the best one."""
    best = max(row["mean_psnr"] for row in rows)
    near = [row for row in rows if row["mean_psnr"] >= best - NEAR_BEST]
    return min(near, key=lambda row: row["ms"])


def header(horizon: int) -> str:
    """Names of the columns of `line`."""
    steps = "".join(f"  t={step:<3d}" for step in SHOWN_STEPS if step <= horizon)
    return f"passes  order       temp  guidance{steps}  mean   delta4   ms"


def line(row: dict) -> str:
    """One row of figures."""
    psnr = row["psnr"]
    shown = "".join(f"  {psnr[step - 1]:5.2f}" for step in SHOWN_STEPS if step <= len(psnr))
    delta = "    -" if row["delta_psnr"] is None else f"{row['delta_psnr']:5.2f}"
    return (
        f"{row['passes']:6d}  {row['order']:10s}  {row['temperature']:4.2f}  "
        f"{row['guidance']:8.2f}{shown}  {row['mean_psnr']:5.2f}  {delta}  {row['ms']:5.1f}"
    )


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(SamplingSweep))
