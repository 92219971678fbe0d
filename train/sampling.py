"""`python -m train.sampling WORLD DATA`: which way of drawing frames a world plays best with.

Every combination of passes, temperatures, bounds and guidance makes the same films from held-out
levels, and is held beside the others by the share of patches that real frames never show, by how
sharp frames still are, by how well actions obey, and by time. Named at the end: of those that are
as sharp as real frames within `AS_SHARP` of the nearest (a world that drifts into emptiness shows
nothing that is strange), then within `NEAR_BEST` points of the fewest never-seen patches, then
within `AS_OBEDIENT` of the best agreement, the quickest.
PSNR is told, but does not choose: it prefers a blur to a definite picture. The first row is what
the world does now. Changes nothing.
"""

import json
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
import tyro
from jaxtyping import Int, UInt8
from torch import Tensor

from genie.data.clips import FrameStore
from genie.errors import UserError
from genie.files import check_folder, write_whole
from genie.frames import to_float
from genie.metrics import psnr
from genie.sampling import SamplingConfig
from genie.world import World
from train.errors import one_line_errors
from train.evaluate import NUM_HELD_PROMPTS, check_sizes
from train.measure.figures import latency_figures, scroll_figures
from train.measure.long_rollouts import WINDOW, Ruler, longest_scenes, run_on
from train.measure.patches import FEWEST_VIDEOS
from train.measure.rollouts import HISTORY, draw_clips, infer, roll

AS_SHARP = 0.1
NEAR_BEST = 1.0
AS_OBEDIENT = 0.05
PSNR_STEPS = (4, 15)


@dataclass(frozen=True, kw_only=True)
class SamplingSweep:
    """Measure a world under several ways of drawing its frames."""

    world: tyro.conf.Positional[Path]
    """Checkpoint folder of the world."""
    data: tyro.conf.Positional[Path]
    """Folder made by train.prepare; only its held-out videos are read."""
    passes: tuple[int, ...] = (1, 4, 8)
    """MaskGIT passes over a frame at most."""
    entropy_bounds: tuple[float, ...] = (0.0, 0.25, 0.5)
    """Nats a token that a pass may leave open; 0: always all passes."""
    temperatures: tuple[float, ...] = (0.3, 1.0)
    """Of the token draws."""
    choice_temperatures: tuple[float, ...] = (0.0,)
    """Noise in the order of revealing; 0: the surest first."""
    guidances: tuple[float, ...] = (1.0,)
    """By the action."""
    num_clips: int = 64
    """Held-out clips to roll out for PSNR, from some of which actions are held."""
    horizon: int = 300
    """Frames that films run on for; the last 10 are looked at."""
    seed: int = 0
    """Draws clips, patches and the sampler's noise."""
    out: Path = Path("report")
    """Folder for sampling.json; made if need be."""


@dataclass(frozen=True)
class Course:
    """What every way of drawing is sent through."""

    store: FrameStore
    ruler: Ruler
    clips: UInt8[Tensor, "b t 3 h w"]
    actions: Int[Tensor, "b t"]
    """That lead from the prompts on."""
    scenes: np.ndarray
    """Numbers of the scenes from whose beginnings films run on."""
    horizon: int
    seed: int

    @classmethod
    def of(cls, config: SamplingSweep, world: World) -> "Course":
        """Draw clips and patches.

        Raises:
            UserError: if the videos do not fit or are too few.
        """
        store = FrameStore.open(config.data, "heldout")
        check_sizes(world, store)
        games = store.by_game()
        if len(games) > 1:
            raise UserError(
                f"{config.data} has several games ({', '.join(games)}): prepare one by itself"
            )
        clips, _ = draw_clips(store, config.num_clips, max(PSNR_STEPS), config.seed)
        ruler = Ruler.of(store, config.seed)
        if ruler.known is None:
            raise UserError(
                f"{config.data} holds out too few videos to look patches up in others: hold out "
                f"{FEWEST_VIDEOS} or more"
            )
        actions = infer(world, clips)[:, HISTORY:]
        scenes = longest_scenes(store)
        return cls(store, ruler, clips, actions, scenes, config.horizon, config.seed)


@torch.no_grad()
def main(config: SamplingSweep) -> None:
    """Print a table as it comes, and write it.

    Raises:
        UserError: if a file or a flag does not fit, or `config.out` cannot be written.
    """
    ways = settings(config)
    check_folder(config.out)
    world = World.from_pretrained(config.world)
    ways = list(dict.fromkeys([world.config.sampling, *ways]))
    configs = [replace(world.config, sampling=sampling) for sampling in ways]
    course = Course.of(config, world)
    print(header(config.horizon))
    rows = []
    for world.config in configs:
        rows.append(asdict(world.config.sampling) | measure(world, course))
        print(line(rows[-1]), flush=True)
    chosen = choose(rows)
    write_whole(
        config.out / "sampling.json", json.dumps({"rows": rows, "chosen": chosen}, indent=1)
    )
    print(
        f"the quickest that is sharp within {AS_SHARP:g} of the nearest to real frames, within "
        f"{NEAR_BEST:g} points of the fewest never seen and {AS_OBEDIENT:g} of the best agreement:"
        f"\n{line(chosen)}"
    )


def settings(config: SamplingSweep) -> list[SamplingConfig]:
    """All combinations, but those that differ in what a single pass does not use.

    Raises:
        UserError: if a value is out of range, or there is no combination.
    """
    if config.horizon < WINDOW:
        raise UserError(f"--horizon is {config.horizon}: give {WINDOW} or more")
    axes = (
        config.passes,
        config.temperatures,
        config.choice_temperatures,
        config.entropy_bounds,
        config.guidances,
    )
    if not all(axes):
        raise UserError("every option of the sweep wants at least one value")
    ways = [
        SamplingConfig(
            maskgit_steps=steps,
            temperature=temperature,
            choice_temperature=noise if steps > 1 else 0.0,
            entropy_bound=bound if steps > 1 else 0.0,
            guidance=guidance,
        )
        for steps, temperature, noise, bound, guidance in product(*axes)
    ]
    return list(dict.fromkeys(ways))


def measure(world: World, course: Course) -> dict[str, float]:
    """Percent of patches never seen, obedience, likeness to the truth in dB, passes and time."""
    films = run_on(world, course.store, course.scenes, (course.horizon,), course.seed)
    looks = course.ruler.looks(films.windows[course.horizon], films.videos, course.seed)
    prompts = course.clips[:, HISTORY]
    frames = roll(world, prompts, course.actions, course.seed, "rollout")
    held = scroll_figures(world, prompts[:NUM_HELD_PROMPTS], course.seed)
    latency = latency_figures(world, prompts[0], course.seed)
    return {
        "never_seen": looks["never_seen"],
        "sharpness": looks["sharpness"],
        "agreement": held["agreement"],
        "eta_squared": held["eta_squared"]["across"],
        **{
            f"psnr_{step}": psnr(
                to_float(frames[:, step - 1]), to_float(course.clips[:, HISTORY + step])
            )
            .mean()
            .item()
            for step in PSNR_STEPS
        },
        "passes": latency["passes"],
        "ms": latency["mean_ms"],
    }


def choose(rows: list[dict]) -> dict:
    """The quickest row that is near the best in looks and in obedience."""
    nearest = min(abs(row["sharpness"] - 1) for row in rows)
    lively = [row for row in rows if abs(row["sharpness"] - 1) <= nearest + AS_SHARP]
    fewest = min(row["never_seen"] for row in lively)
    looks_well = [row for row in lively if row["never_seen"] <= fewest + NEAR_BEST]
    best = max(row["agreement"] for row in looks_well)
    obeys = [row for row in looks_well if row["agreement"] >= best - AS_OBEDIENT]
    return min(obeys, key=lambda row: row["ms"])


COLUMNS = {
    "most": ("maskgit_steps", "d"),
    "bound": ("entropy_bound", "g"),
    "temp": ("temperature", ".2f"),
    "choice": ("choice_temperature", "g"),
    "guide": ("guidance", "g"),
    "never seen": ("never_seen", ".1f"),
    "sharp": ("sharpness", ".2f"),
    "agree": ("agreement", ".2f"),
    "eta2": ("eta_squared", ".2f"),
    **{f"dB t={step}": (f"psnr_{step}", ".2f") for step in PSNR_STEPS},
    "passes": ("passes", ".2f"),
    "ms": ("ms", ".1f"),
}


def header(horizon: int) -> str:
    """Names of the columns of `line`."""
    names = "".join(f"{name:>{_width(name)}}" for name in COLUMNS)
    return f"patches never seen (%) after {horizon} frames\n{names}"


def line(row: dict) -> str:
    """One row of figures."""
    return "".join(f"{format(row[of], how):>{_width(name)}}" for name, (of, how) in COLUMNS.items())


def _width(name: str) -> int:
    return max(6, len(name)) + 2


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(SamplingSweep))
