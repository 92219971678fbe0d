"""Training states on disk: the latest few, each written whole or not at all.

In: a step and everything needed to resume after it. Out: the newest state that can be read. Knows
nothing of nets.
"""

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from genie.errors import UserError, in_one_line
from genie.files import whole

# Errors that torch.load raises for a torn file.
TORN = (
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    KeyError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)

State = dict[str, Any]


class States:
    """Files state-NUMBER.pt in a folder."""

    def __init__(self, folder: Path, keep: int, say: Callable[[str], None] = print) -> None:
        """Args: keep: how many of the latest states stay. say: reports a torn one."""
        self.folder, self.keep, self._say = folder, keep, say

    def steps(self) -> list[int]:
        """Steps that have a state, in order."""
        return sorted(int(path.stem.split("-")[1]) for path in self.folder.glob("state-*.pt"))

    def save(self, step: int, state: State, *, milestone: int) -> None:
        """Write a state, then delete states that are too old.

        Args:
            milestone: the newest state at or before this step stays, too.

        Raises:
            UserError: if it cannot be written; earlier states stay as they are.
        """
        self._drop_half_written()
        try:
            with whole(self._path(step)) as partial, partial.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())  # or a power cut leaves the name without the content
            _flush_folder(self.folder)
        except (OSError, RuntimeError) as error:
            why = in_one_line(error)
            last = f"step {max(self.steps())} is whole" if self.steps() else "there is none yet"
            raise UserError(
                f"cannot save step {step} in {self.folder} ({why}): make room and repeat the "
                f"command; of the states before, {last}"
            ) from error
        self._drop_old(milestone)

    def newest(self) -> State | None:
        """The newest state that is whole, or None; torn ones are reported and left in place."""
        for step in reversed(self.steps()):
            try:
                return torch.load(self._path(step), map_location="cpu", weights_only=True)
            except TORN:
                self._say(f"{self._path(step)} is torn: going on from the state before it")
        return None

    def forget_after(self, step: int) -> None:
        """Delete the states of later steps."""
        for later in (found for found in self.steps() if found > step):
            self._path(later).unlink()

    def _drop_old(self, milestone: int) -> None:
        steps = self.steps()
        kept = {*steps[-self.keep :], *[step for step in steps if step <= milestone][-1:]}
        for step in set(steps) - kept:
            self._path(step).unlink()

    def _drop_half_written(self) -> None:
        """Delete what killed processes left: such files are large, and each has another name."""
        for partial in self.folder.glob(".state-*.partial"):
            partial.unlink()

    def _path(self, step: int) -> Path:
        return self.folder / f"state-{step:07d}.pt"


def _flush_folder(folder: Path) -> None:
    if os.name == "nt":
        return  # folders cannot be opened there
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
