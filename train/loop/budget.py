"""How long a stage is trained, where a time is given instead of steps.

In: minutes or seconds, and what is known of a stage that was begun before. Out: a number of steps,
or the seconds in which it is to be over.

--minutes are turned into steps at a stage's first start, by trying some on this machine. Their
number is written into its config.json, so that from there on nothing depends on the clock: the run
goes on, or is repeated with --loop.num-steps, to the same weights. With --until nothing is tried,
since the run itself watches the clock (`train/loop/progress.py`).
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
SHARE = 0.94  # of the time for steps; the rest is for evaluations and saving
FEWEST_STEPS = 40
LEAST_SHARE = 0.1  # of --until, for steps, however long it took to begin: late is better than never
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


def begun_with(folder: Path) -> tuple[int | None, float]:
    """The steps of a stage that was begun before, or the seconds if it goes by the clock.

    Returns:
        (steps, 0), (None, seconds), or (None, 0) for a stage with nothing to go on from.
    """
    if not (folder / "config.json").is_file():
        return None, 0
    description = read_description(folder)
    if "until" not in description:
        return description["loop"]["num_steps"], 0
    has_state = is_finished(folder) or any(folder.glob("state-*.pt"))
    return None, description["until"] if has_state else 0


def seconds_within(until: float) -> float:
    """Seconds in which a new stage is to be over: at least a share of them is left from now on.

    Raises:
        UserError: if several processes would have to agree on the time.
    """
    if PartialState().num_processes > 1:
        raise UserError("--until is for one process: give --minutes, by which all know the steps")
    return max(until, process_age_s() + LEAST_SHARE * until)


def steps_within(
    minutes: float, folder: Path, loop: LoopConfig, make: Callable[[LoopConfig, Path], Trainer]
) -> int:
    """Steps for which a stage is to be trained.

    Args:
        minutes: that it may take in all, the trial included.
        folder: of the stage.
        loop: how it is trained.
        make: a trainer of a copy of the net, with this loop, in this folder.

    Raises:
        UserError: if that is too short to train anything.
    """
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
