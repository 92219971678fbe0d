"""`make bench`: measure the speeds that the README gives on this machine, and print one table.

What a ratio compares is timed in turns, so that changes of the machine's speed affect both alike.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from genie import machine
from genie.errors import UserError
from genie.files import check_folder, write_whole
from tests.benchmarks import (
    engines,
    environments,
    limits,
    loading,
    page,
    playing,
    preparing,
    site,
    training,
    worlds,
)
from train.errors import one_line_errors

Row = dict[str, Any]
Section = Callable[[], Row | list[Row]]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure speed."""

    only: tuple[str, ...] = ()
    """Sections to measure; by default all."""
    out: Path = Path("bench")
    """Folder for bench.json and bench.txt."""
    frames: int = 10_000
    """Frames that the session of the section "long" runs for."""


def sections(options: Options) -> dict[str, Section]:
    """The sections, in the order in which they are measured."""
    shipped, paper = worlds.shipped_world, worlds.paper_world  # made when first called
    return {
        "engines": lambda: [
            *engines.compare("coinrun", rounds=5, num_frames=120),
            *engines.compare("ninja", rounds=5, num_frames=120),
        ],
        "site": lambda: [
            *site.frames("coinrun", threads=(1, 2), num_frames=120),
            *site.frames("ninja", threads=(1, 2), num_frames=120),
        ],
        "frames": lambda: playing.by_history(
            shipped(), shipped().config.sampling.maskgit_steps, rounds=30
        ),
        "paper": lambda: [
            *playing.by_history(paper(), 4, rounds=3),
            *(
                [playing.frame_cost(paper(), 15, 4, rounds=5, compile=True)]
                if machine.has_compiler(paper().device)
                else []
            ),
        ],
        "paper-25": lambda: playing.uncached_frame(paper(), 15, 25, rounds=2),
        "foresight": lambda: playing.foresight(worlds.shipped_graphs(), 1000),
        "page": lambda: page.round_trips(300),
        "many": lambda: playing.many_at_once(worlds.shipped_graphs(), rounds=15),
        "environments": lambda: environments.throughput("coinrun", (1, 16, 64), rounds=5),
        "limits": lambda: [
            *limits.one_pass(shipped(), rounds=60),
            *limits.one_pass(paper(), rounds=25),
        ],
        "training": lambda: [
            *training.whole_preset("nano", rounds=7),
            training.step_times("base", "dynamics", rounds=2, num_clips=1),
            training.step_times("paper", "dynamics", rounds=2, num_clips=1),
        ],
        "preparing": lambda: preparing.throughput(rounds=5),
        "loading": lambda: loading.loader(500),
        "long": lambda: playing.old_and_young(shipped(), options.frames, rounds=200),
    }


def main(options: Options) -> None:
    """Measure, then print one table and write both files."""
    out = check_folder(options.out)
    chosen = sections(options)
    for name in options.only:
        if name not in chosen:
            raise UserError(f"no section {name!r}: choose among {', '.join(chosen)}")
    figures: dict[str, object] = {"machine": this_machine()}
    lines = [f"machine: {figures['machine']}"]
    for name in options.only or chosen:
        print(f"measuring {name} ...", file=sys.stderr)
        started = time.perf_counter()
        figures[name] = chosen[name]()
        lines += ["", f"{name} ({time.perf_counter() - started:.0f} s)", *table(figures[name])]
        # Written after every section, so that an interruption loses only the present one.
        write_whole(out / "bench.json", json.dumps(figures, indent=1) + "\n")
        write_whole(out / "bench.txt", "\n".join(lines) + "\n")
    print("\n".join(lines))
    print(f"\nwritten to {out}/bench.json and {out}/bench.txt")


def this_machine() -> str:
    """Describe the machine in words."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":")[1].strip() if names else model
    device = machine.describe(machine.best_device())
    return f"{model}, {os.cpu_count()} cores; {device}; torch {torch.__version__}"


def table(figures: Row | list[Row]) -> Iterator[str]:
    """Lines of a table: a column for each figure, a row for each of the list."""
    rows = [flatten(row) for row in (figures if isinstance(figures, list) else [figures])]
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[brief(row.get(name, "")) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    for line in (names, *cells):
        yield "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))


def flatten(row: Row, prefix: str = "") -> Row:
    """Flatten nested figures; names are joined by a space."""
    flat: Row = {}
    for name, value in row.items():
        whole = f"{prefix} {name}".strip()
        flat |= flatten(value, whole) if isinstance(value, dict) else {whole: value}
    return flat


def brief(value: object) -> str:
    """Format a figure for people."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(Options, prog="python -m tests.benchmarks"))
