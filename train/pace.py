"""How long a stage is trained where a time is given instead of steps.

By --minutes it is tried on this machine before it begins. In: a way to make a trainer, and minutes.
Out: a number of steps. It is found once, at a stage's
first start, and written into its config.json with everything else, so that from there on nothing
depends on the clock: the run goes on, or is repeated with --loop.num-steps, to the same weights.
By --until nothing is tried: the run itself watches the clock (`train/progress.py`).
"""

import json
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from genie.errors import UserError
from train.config import LoopConfig
from train.loop import Trainer
from train.run_folder import read_description

TRIED = 20  # steps that are timed, after as many in which kernels are compiled and caches filled
SHARE = 0.94  # of the time for steps; the rest is for evaluations and saving
FEWEST_STEPS = 40
NEVER = 10**9


def check_time(minutes: float, until: float) -> None:
    """Refuse what is no time.

    Raises:
        UserError: if one is below 0, infinite or no number, or both are given.
    """
    for name, time_given in (("minutes", minutes), ("until", until)):
        if not 0 <= time_given < math.inf:
            raise UserError(
                f"--{name} is {time_given:g}: a number from 0 (take the preset's steps) on"
            )
    if minutes and until:
        raise UserError("--minutes and --until are both given: choose one")


def seconds_within(until: float, folder: Path) -> float:
    """Seconds in which a stage is to be over; one that was started before keeps its own.

    Raises:
        UserError: if several processes would have to agree on the time.
    """
    if until and PartialState().num_processes > 1:
        raise UserError("--until is for one process: give --minutes, by which all know the steps")
    if until and (folder / "config.json").is_file():
        return read_description(folder).get("until", until)
    return until


def steps_within(
    minutes: float, folder: Path, loop: LoopConfig, make: Callable[[LoopConfig, Path], Trainer]
) -> int:
    """Steps for which a stage is to be trained.

    Args:
        minutes: that it may take in all, the trial included.
        folder: of the stage; one that was started before keeps its number.
        loop: how it is trained.
        make: a trainer of a copy of the net, with this loop, in this folder.

    Raises:
        UserError: if that is too short to train anything.
    """
    if (folder / "config.json").is_file():
        description = read_description(folder)
        # One that goes by the clock is refused as another run, later.
        return loop.num_steps if "until" in description else description["loop"]["num_steps"]
    began = time.perf_counter()
    seconds = _time_step(loop, make)
    left = 60 * minutes - (time.perf_counter() - began)
    # Of several processes the first decides; of one, this gives back the list.
    steps, seconds = broadcast_object_list([int(SHARE * left / seconds), seconds])
    if steps < FEWEST_STEPS:
        raise UserError(
            f"{folder.name} takes {seconds:.2g} s a step here, so that {minutes:g} minutes are too "
            "few: give more --minutes, or a smaller --preset"
        )
    return steps


def _time_step(loop: LoopConfig, make: Callable[[LoopConfig, Path], Trainer]) -> float:
    trial = replace(
        loop,
        num_steps=2 * TRIED,
        decay_share=0.0,  # else it would save on the way
        log_every=TRIED,
        evaluate_every=NEVER,
        save_every=NEVER,
        evaluate_batches=1,
        trackers=(),
    )
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "trial"
        trainer = make(trial, folder)
        trainer.run()
        if not trainer.is_main:
            return 1.0
        lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        return [line["step_s"] for line in lines if "step_s" in line][-1]
