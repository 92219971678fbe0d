"""What the three stages share on the command line: presets, run folders, one-line errors."""

import contextlib
import logging
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
import tyro

from genie.data import FrameStore
from genie.errors import UserError

Config = TypeVar("Config")
DEFAULT_PRESET = "nano"


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """Flags that every stage has."""

    data: Path = Path("runs/world/data")
    """Prepared folder (python -m train.prepare)."""
    run: Path = Path("runs/world")
    """Run folder; every stage has a folder of its own in it. Repeat the command to resume."""
    threads: int = 0
    """CPU threads; 0 takes all cores."""


def parse(presets: Mapping[str, Config], description: str, args: list[str] | None = None) -> Config:
    """The preset named by --preset, with every other flag laid over it."""
    args = list(sys.argv[1:] if args is None else args)
    name = _take_preset(args)
    if name not in presets:
        raise UserError(f"no preset {name!r}: choose one of {', '.join(presets)}")
    description = f"{description}\n\n--preset {{{','.join(presets)}}} chooses the defaults below."
    return tyro.cli(type(presets[name]), default=presets[name], args=args, description=description)


def open_stores(config: StageConfig) -> tuple[FrameStore, FrameStore]:
    """Training and held-out frames."""
    return FrameStore.open(config.data, "train"), FrameStore.open(config.data, "heldout")


def set_up(config: StageConfig, seed: int) -> None:
    """Threads, seed and a quiet terminal."""
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(seed)
    logging.basicConfig(level=logging.INFO, format="%(message)s")


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """A user's mistake becomes one line and exit code 2; Ctrl-C exits with 130."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("stopped; repeat the command to go on", file=sys.stderr)
        raise SystemExit(130) from None


def _take_preset(args: list[str]) -> str:
    for index, arg in enumerate(args):
        if arg == "--preset":
            if index + 1 == len(args):
                raise UserError("--preset wants a name")
            name = args[index + 1]
            del args[index : index + 2]
            return name
        if arg.startswith("--preset="):
            del args[index]
            return arg.removeprefix("--preset=")
    return DEFAULT_PRESET
