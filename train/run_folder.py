"""A stage's folder on disk: what it is, how far it has got, and what came of it.

`config.json` says what the run is, `starts.jsonl` what it was made with, `metrics.jsonl` how it
went, `state.pt` holds everything needed to go on, and `weights.safetensors` is there only when the
stage is finished and its result was accepted. One process at a time; a file appears whole or not at
all. Knows no loops.
"""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import nn

from genie.checkpoint import load_weights, save_weights, write_whole
from genie.errors import UserError
from train.provenance import note_start

# A stage whose parent was killed notices within a second (`train.stage.end_with_parent`).
LOCK_SECONDS = 3.0


class RunFolder:
    """A run's folder, held by this process alone for as long as the object lives."""

    def __init__(self, path: Path, description: dict[str, Any]) -> None:
        """Make the folder, or go on with the same run.

        Raises:
            UserError: if another process has it, it holds a run of other settings, or it cannot
                be written.
        """
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(path / ".lock", timeout=LOCK_SECONDS, is_singleton=True)
            self._lock.acquire()
            claim(path, description)
            if not is_finished(path):
                note_start(path)
        except Timeout:
            raise UserError(
                f"{path} is being trained by another process: wait for it or stop it"
            ) from None
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror or error}") from error

    def log(self, step: int, split: str, metrics: dict[str, float]) -> None:
        """Append a line to metrics.jsonl."""
        line = {"step": step, "split": split}
        line |= {name: float(f"{value:.6g}") for name, value in metrics.items()}
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def last_evaluation(self) -> dict[str, float]:
        """The newest held-out line."""
        return [line for line in self._lines() if line["split"] == "heldout"][-1]

    def save(self, step: int, net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Replace state.pt."""
        state = {"step": step, "net": net.state_dict(), "optimizer": optimizer.state_dict()}
        partial = self.path / ".state.pt.partial"
        torch.save(state, partial)
        os.replace(partial, self.path / "state.pt")

    def load(self, net: nn.Module, optimizer: torch.optim.Optimizer) -> int:
        """Read state.pt where there is one; gives the step to go on from."""
        path = self.path / "state.pt"
        if not path.is_file():
            (self.path / "metrics.jsonl").unlink(missing_ok=True)
            return 0
        state = torch.load(path, map_location="cpu", weights_only=True)
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        self._drop_lines_after(state["step"])
        return state["step"]

    def finish(self, net: nn.Module) -> None:
        """Write the weights that the next stage reads."""
        if not is_finished(self.path):
            save_weights(net, self.path / "weights.safetensors")

    def _lines(self) -> list[dict[str, Any]]:
        lines, path = [], self.path / "metrics.jsonl"
        for line in path.read_text().splitlines() if path.is_file() else ():
            try:
                lines.append(json.loads(line))
            except ValueError:  # torn by a kill; the state on disk is older, so nothing is lost
                continue
        return lines

    def _drop_lines_after(self, step: int) -> None:
        kept = [json.dumps(line) + "\n" for line in self._lines() if line["step"] <= step]
        write_whole(self.path / "metrics.jsonl", "".join(kept))


def claim(folder: Path, description: dict[str, Any]) -> None:
    """Write what a run is into its folder, or check that it is the run that is there.

    Raises:
        UserError: naming the first setting that differs.
    """
    path = folder / "config.json"
    wanted = json.loads(json.dumps(description, default=str))
    if path.is_file():
        different = _first_difference(json.loads(path.read_text()), wanted)
        if different:
            raise UserError(
                f"{folder} holds a run with other settings ({different}): repeat its command to "
                "go on, or choose another --run folder"
            )
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(wanted, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from error


def describe(**parts: Any) -> dict[str, Any]:
    """A run's description for its config.json: dataclasses become dictionaries."""
    return {k: asdict(v) if hasattr(v, "__dataclass_fields__") else v for k, v in parts.items()}


def read_description(folder: Path) -> dict[str, Any]:
    """The config.json of a stage.

    Raises:
        UserError: if the stage was never started.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder} holds no training: run train/{folder.name}.py first")
    return json.loads(path.read_text())


def is_finished(folder: Path) -> bool:
    """Whether a stage has reached its last step and its result was accepted."""
    return (folder / "weights.safetensors").is_file()


def load_finished(net: nn.Module, folder: Path) -> nn.Module:
    """The net with a finished stage's weights, in evaluation mode.

    Raises:
        UserError: if the stage has not finished.
    """
    if not is_finished(folder):
        raise UserError(
            f"{folder} holds no finished training: run train/{folder.name}.py to its end first"
        )
    load_weights(net, folder / "weights.safetensors")
    return net.eval()


def _first_difference(found: Any, wanted: Any, name: str = "") -> str:
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted(found.keys() | wanted.keys()):
            difference = _first_difference(found.get(key), wanted.get(key), f"{name}.{key}")
            if difference:
                return difference
        return ""
    return "" if found == wanted else f"{name.lstrip('.')}: {found} there, {wanted} now"
