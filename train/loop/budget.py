"""How long a stage trains, where a time is given instead of a number of steps.

In: minutes or seconds, and the folder of a stage that may have begun earlier. Out: a number of
steps, or the seconds after which the stage ends.

--minutes is turned into steps when a stage first starts, by timing some steps on this machine.
Their number is written to config.json, and nothing depends on the clock from then on: the run can
be resumed, or repeated with --loop.num-steps, to the same weights. --until times no steps
beforehand, since the run itself watches the clock (`train/loop/progress.py`).
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
from train.loop.config import LoopConfig
from train.loop.progress import process_age_s
from train.loop.run_folder import is_finished, read_description
from train.loop.trainer import Trainer

TRIED = 20  # steps that are timed, after as many in which kernels are compiled and caches filled
SHARE = 0.94  # of the time is for steps; the rest is for evaluations and saving
FEWEST_STEPS = 40
LEAST_SHARE = 0.1  # of --until is for steps, however long the start took: better late than never
NEVER = 10**9


def check_time(minutes: float, until: float) -> None:
    """Check the two flags that give a time.

    Raises:
        UserError: if one is negative, infinite or not a number, or both are given.
    """
    for name, time_given in (("minutes", minutes), ("until", until)):
        if not 0 <= time_given < math.inf:
            raise UserError(f"--{name} is {time_given:g}: give 0 (the preset's steps) or more")
    if minutes and until:
        raise UserError("--minutes and --until are both given: choose one")


def begun_with(folder: Path) -> tuple[int | None, float]:
    """The length of a stage that began earlier: its steps, or its seconds if it goes by the clock.

    Returns:
        (steps, 0), (None, seconds), or (None, 0) for a stage that has nothing to resume.
    """
    if not (folder / "config.json").is_file():
        return None, 0
    description = read_description(folder)
    if "until" not in description:
        return description["loop"]["num_steps"], 0
    has_state = is_finished(folder) or any(folder.glob("state-*.pt"))
    return None, description["until"] if has_state else 0


def seconds_within(until: float) -> float:
    """Seconds from the start of this process to the end of a new stage, leaving some for steps.

    Raises:
        UserError: if there are several processes, which would have to agree on the time.
    """
    if PartialState().num_processes > 1:
        raise UserError("--until is for one process: give --minutes, which fixes the steps for all")
    return max(until, process_age_s() + LEAST_SHARE * until)


def steps_within(
    minutes: float, folder: Path, loop: LoopConfig, make: Callable[[LoopConfig, Path], Trainer]
) -> int:
    """Number of steps that a stage can take in a time, found by timing a few.

    Args:
        minutes: for the whole stage, including the trial.
        folder: of the stage.
        loop: how it is trained.
        make: makes a trainer of a copy of the net, with the given loop and folder.

    Raises:
        UserError: if the time is too short for `FEWEST_STEPS`.
    """
    began = time.perf_counter()
    seconds = _time_step(loop, make)
    left = 60 * minutes - (time.perf_counter() - began)
    # The first of several processes decides; with one, this returns the list as it is.
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
        decay_share=0.0,  # otherwise a state would be saved before the rate falls
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
