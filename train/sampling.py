"""`python -m train.sampling WORLD DATA`: find the settings with which a world draws frames best.

Rolls out every combination of passes, temperatures, entropy bounds and guidance from the same
held-out frames under the same actions, and compares never-seen patches, sharpness, the agreement of
held actions, and time. The best is chosen step by step: keep the settings whose sharpness deviates
from real frames' by at most `AS_SHARP` more than that of the best (an empty picture has no strange
patch, but is not sharp); of these, those within `NEAR_BEST` percentage points of the fewest
never-seen patches; of these, those within `AS_OBEDIENT` of the best agreement; take the fastest.
PSNR is printed but does not count: it prefers a blur to a sharp picture. The first row shows the
world's present settings. Does not change the world's folder.
"""

import json
from collections.abc import Callable
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
from train.measure.evaluation import NUM_HELD_PROMPTS
from train.measure.figures import held_action_figures, latency_figures
from train.measure.long_rollouts import WINDOW, Ruler, longest_scenes, run_on
from train.measure.patches import FEWEST_VIDEOS, KnownPatches
from train.measure.rollouts import HISTORY, check_sizes, draw_clips, infer, roll

AS_SHARP = 0.1
NEAR_BEST = 1.0
AS_OBEDIENT = 0.05
PSNR_STEPS = (4, 15)


@dataclass(frozen=True, kw_only=True)
class SamplingSweep:
    """Measure a world with several settings of its sampling."""

    world: tyro.conf.Positional[Path]
    """Checkpoint folder of the world."""
    data: tyro.conf.Positional[Path]
    """Folder made by train.prepare; only its held-out videos are read."""
    passes: tuple[int, ...] = (1, 4, 8)
    """Largest number of MaskGIT passes over a frame."""
    entropy_bounds: tuple[float, ...] = (0.0, 0.25, 0.5)
    """Nats per token of a frame up to which one pass reveals tokens; 0: always all passes."""
    temperatures: tuple[float, ...] = (0.3, 1.0)
    """Temperature of the token draws."""
    choice_temperatures: tuple[float, ...] = (0.0,)
    """Noise in the order in which tokens are revealed; 0: the most confident first."""
    guidances: tuple[float, ...] = (1.0,)
    """Factor on the action's effect on the logits in the first pass; 1: no guidance."""
    num_clips: int = 64
    """Held-out clips to roll out for PSNR; actions are held from the first 32 of them."""
    horizon: int = 300
    """Length of the long rollouts in frames; the last 10 are measured."""
    seed: int = 0
    """Draws clips, patches and the sampler's noise."""
    out: Path = Path("report")
    """Folder for sampling.json; created if necessary."""


@dataclass(frozen=True)
class Course:
    """The clips, actions and real frames with which every setting is measured."""

    store: FrameStore
    ruler: Ruler
    known: KnownPatches
    clips: UInt8[Tensor, "b t 3 h w"]
    actions: Int[Tensor, "b t"]
    """Inferred actions from the prompts on."""
    scenes: np.ndarray
    """Numbers of the scenes from whose beginning long rollouts start."""
    horizon: int
    seed: int

    @classmethod
    def of(cls, config: SamplingSweep, world: World) -> "Course":
        """Draw clips and patches.

        Raises:
            UserError: if the videos have another size, are of several games, or are too few.
        """
        store = FrameStore.open(config.data, "heldout")
        check_sizes(world, store)
        games = store.by_game()
        if len(games) > 1:
            raise UserError(
                f"{config.data} has several games ({', '.join(games)}): prepare one separately"
            )
        clips, _ = draw_clips(store, config.num_clips, max(PSNR_STEPS), config.seed)
        ruler = Ruler.of(store, config.seed)
        if ruler.known is None:
            raise UserError(
                f"{config.data} has too few held-out videos to look patches up in others: hold out "
                f"{FEWEST_VIDEOS} or more"
            )
        actions = infer(world, clips)[:, HISTORY:]
        scenes = longest_scenes(store)
        return cls(store, ruler, ruler.known, clips, actions, scenes, config.horizon, config.seed)


@dataclass(frozen=True, kw_only=True)
class Row:
    """Settings, and what was measured with them."""

    sampling: SamplingConfig
    never_seen: float
    """Percent of patches that real frames never show, after `horizon` frames."""
    sharpness: float
    """Relative to real frames."""
    agreement: float
    """See `HeldActions`; likewise the next."""
    eta_squared: float
    psnr: dict[int, float]
    """dB, by the number of frames since the prompt."""
    passes: float
    """Per frame, on average."""
    ms: float
    """Per frame, on average."""


@torch.no_grad()
def main(config: SamplingSweep) -> None:
    """Measure every setting; print each row once it is there, and write all of them.

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
        rows.append(measure(world, course))
        print(line(rows[-1]), flush=True)
    chosen = choose(rows)
    found = {"rows": [asdict(row) for row in rows], "chosen": asdict(chosen)}
    write_whole(config.out / "sampling.json", json.dumps(found, indent=1))
    print(f"the fastest of those that look and obey nearly as well as the best:\n{line(chosen)}")


def settings(config: SamplingSweep) -> list[SamplingConfig]:
    """All combinations, without repeats that differ only in what a single pass does not use.

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
        raise UserError("an option of the sweep is empty: give at least one value for each")
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


def measure(world: World, course: Course) -> Row:
    """Measure the world with its present settings."""
    run = run_on(world, course.store, course.scenes, (course.horizon,), course.seed)
    last = run.windows[course.horizon]
    prompts = course.clips[:, HISTORY]
    frames = roll(world, prompts, course.actions, course.seed, "rollout")
    held = held_action_figures(world, prompts[:NUM_HELD_PROMPTS], course.seed)
    latency = latency_figures(world, prompts[0], course.seed)
    return Row(
        sampling=world.config.sampling,
        never_seen=course.known.never_seen(last, run.videos, course.seed),
        sharpness=course.ruler.looks(last).sharpness,
        agreement=held.agreement,
        eta_squared=held.eta_squared.across,
        psnr={
            step: psnr(to_float(frames[:, step - 1]), to_float(course.clips[:, HISTORY + step]))
            .mean()
            .item()
            for step in PSNR_STEPS
        },
        passes=latency.passes,
        ms=latency.mean_ms,
    )


def choose(rows: list[Row]) -> Row:
    """The fastest row among those that look and obey nearly best; see the module."""
    least = min(abs(row.sharpness - 1) for row in rows)
    sharp = [row for row in rows if abs(row.sharpness - 1) <= least + AS_SHARP]
    fewest = min(row.never_seen for row in sharp)
    clean = [row for row in sharp if row.never_seen <= fewest + NEAR_BEST]
    best = max(row.agreement for row in clean)
    obedient = [row for row in clean if row.agreement >= best - AS_OBEDIENT]
    return min(obedient, key=lambda row: row.ms)


COLUMNS: dict[str, tuple[Callable[[Row], float], str]] = {
    "most": (lambda row: row.sampling.maskgit_steps, "d"),
    "bound": (lambda row: row.sampling.entropy_bound, "g"),
    "temp": (lambda row: row.sampling.temperature, ".2f"),
    "choice": (lambda row: row.sampling.choice_temperature, "g"),
    "guide": (lambda row: row.sampling.guidance, "g"),
    "never seen": (lambda row: row.never_seen, ".1f"),
    "sharp": (lambda row: row.sharpness, ".2f"),
    "agree": (lambda row: row.agreement, ".2f"),
    "eta2": (lambda row: row.eta_squared, ".2f"),
    "dB t=4": (lambda row: row.psnr[4], ".2f"),
    "dB t=15": (lambda row: row.psnr[15], ".2f"),
    "passes": (lambda row: row.passes, ".2f"),
    "ms": (lambda row: row.ms, ".1f"),
}


def header(horizon: int) -> str:
    """The title and the column names above the lines of `line`."""
    names = "".join(f"{name:>{_width(name)}}" for name in COLUMNS)
    return f"patches never seen (%) after {horizon} frames\n{names}"


def line(row: Row) -> str:
    """One row of figures."""
    return "".join(
        f"{format(read(row), how):>{_width(name)}}" for name, (read, how) in COLUMNS.items()
    )


def _width(name: str) -> int:
    return max(6, len(name)) + 2


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(SamplingSweep))
