"""`make bench`: every figure of speed that the README gives, on this machine, in one table.

Ratios come from things that took turns in one run, so that a machine with moods does them no harm.
"""

import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from genie import machine
from genie.checkpoint import check_folder, write_whole
from genie.errors import UserError
from tests.benchmarks import limits, loading, playing, training, worlds
from train.stage import one_line_errors

Section = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure speed."""

    only: tuple[str, ...] = ()
    """Sections to measure; without it, all."""
    out: Path = Path("bench")
    """Folder for bench.json and bench.txt."""
    frames: int = 10_000
    """How long the long session is."""


def sections(options: Options) -> dict[str, Section]:
    """What is measured, in the order in which it is."""
    shipped, paper = worlds.shipped_world(), worlds.paper_world()
    steps = shipped.config.sampling.maskgit_steps
    return {
        "frames": lambda: playing.by_history(shipped, steps, rounds=30),
        "paper": lambda: playing.by_history(paper, 4, rounds=5),
        "paper-25": lambda: playing.uncached_frame(paper, 15, 25, rounds=2),
        "foresight": lambda: playing.foresight(shipped, 200),
        "many": lambda: playing.many_at_once(shipped, rounds=15),
        "limits": lambda: [
            *limits.one_pass(shipped, rounds=60),
            *limits.one_pass(paper, rounds=25),
        ],
        "training": lambda: [
            *(training.step_times("nano", stage, rounds=7) for stage in training.STAGES),
            training.step_times("base", "dynamics", rounds=2, num_clips=1),
            training.step_times("paper", "dynamics", rounds=2, num_clips=1),
        ],
        "loading": lambda: loading.loader(500),
        "long": lambda: playing.old_and_young(shipped, options.frames, rounds=200),
    }


def main(options: Options) -> None:
    """Measure, print as it goes, write both files at the end."""
    out = check_folder(options.out)
    chosen = sections(options)
    for name in options.only:
        if name not in chosen:
            raise UserError(f"no section {name!r}: choose among {', '.join(chosen)}")
    figures: dict[str, object] = {"machine": this_machine()}
    lines = [f"machine: {figures['machine']}"]
    print(lines[0])
    for name in options.only or chosen:
        started = time.perf_counter()
        figures[name] = chosen[name]()
        table = [f"== {name} ({time.perf_counter() - started:.0f} s)", *rows(figures[name])]
        print("\n".join(table), flush=True)
        lines += table
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "bench.json", json.dumps(figures, indent=1) + "\n")
    write_whole(out / "bench.txt", "\n".join(lines) + "\n")
    print(f"written to {out}/bench.json and {out}/bench.txt")


def this_machine() -> str:
    """In words."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":")[1].strip() if names else model
    device = machine.describe(machine.best_device())
    return f"{model}, {os.cpu_count()} cores; {device}; torch {torch.__version__}"


def rows(figures: object) -> Iterator[str]:
    """Lines of a table: one for each row of figures."""
    for row in figures if isinstance(figures, list) else [figures]:
        yield "  " + "  ".join(f"{name} {brief(value)}" for name, value in row.items())


def brief(value: object) -> str:
    """A figure as a person reads it."""
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name} {brief(each)}" for name, each in value.items()) + ")"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(Options, prog="python -m tests.benchmarks"))
