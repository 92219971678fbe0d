"""What commands accept: numbers in their ranges, and folders for results that hold none yet.

In: options as they were parsed. Out: one line of error, or nothing.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genie.errors import UserError
from genie.files import check_folder

LARGEST_SEED = 2**31 - 1  # Procgen's is a C int


def check_ranges(config: Any, ranges: Mapping[str, tuple[float, float | None]]) -> None:
    """Reject a number that is too small or too large.

    Args:
        config: its attributes are the options.
        ranges: the least and the most of each; None: there is no most.

    Raises:
        UserError: for the first one out of its range.
    """
    for name, (least, most) in ranges.items():
        value = getattr(config, name)
        if value < least or (most is not None and value > most):
            wanted = f"at least {least}" if most is None else f"{least} to {most}"
            raise UserError(f"--{name.replace('_', '-')} is {value}; give {wanted}")


def check_out(out: Path, name: str) -> None:
    """Reject a folder that cannot be written, or that already has a file of this name.

    Raises:
        UserError: with the mend.
    """
    if (out / name).exists():
        raise UserError(f"{out} already holds results; delete it or choose another --out")
    check_folder(out)
