"""A stage's folder on disk: what it is, how far it has got, and what came of it.

`README.md` and `config.json` say what the run is, `starts.jsonl` what it was made with,
`metrics.jsonl` how it went, `state-NUMBER.pt` holds everything needed to go on, and
`weights.safetensors` is there only when the stage is finished and its result was accepted. One
process at a time writes; a file appears whole or not at all. Knows no loops.
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from genie.checkpoint import (
    load_weights,
    remove_weights,
    save_tensors,
    save_weights,
)
from genie.errors import UserError, in_one_line
from genie.files import write_whole, writing
from train.loop.config import stable_steps
from train.loop.provenance import command_line, note_start
from train.loop.states import State, States

# A stage whose parent was killed notices within a second (`genie.orphans.end_with_parent`).
LOCK_SECONDS = 3.0
WEIGHTS = "weights.safetensors"
WEIGHTS_SO_FAR = "weights-so-far.safetensors"
TAKEN = "steps_taken"  # what the description of a finished run says of how long it was
FREE_SETTINGS = {"log_every", "save_every", "keep_states", "trackers", "num_workers"}


class RunFolder:
    """A run's folder, held by this process alone for as long as the object lives."""

    def __init__(
        self,
        path: Path,
        description: dict[str, Any],
        keep_states: int = 2,
        *,
        then: Sequence[str] = (),
    ) -> None:
        """Make the folder, or go on with the same run, or with the same run made longer.

        Args:
            path: where to.
            description: everything that makes the run what it is.
            keep_states: how many of the last states stay.
            then: commands for what can be done with the result.

        Raises:
            UserError: if another process has it, it holds a run of other settings, or it cannot
                be written.
        """
        self.path, self.states = path, States(path, keep_states)
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(path / ".lock", timeout=LOCK_SECONDS, is_singleton=True)
            try:
                self._lock.acquire()
            except Timeout:
                raise UserError(
                    f"{path} is being trained by another process: wait for it or stop it"
                ) from None
            self._extend(description)
            claim(path, description)
            if not is_finished(path):
                note_start(path)
                write_whole(path / "README.md", _explain(path, then))

    def log(self, step: int, split: str, metrics: dict[str, float]) -> None:
        """Append a line to metrics.jsonl.

        Raises:
            UserError: if it cannot be written.
        """
        line = {"step": step, "split": split}
        line |= {name: float(f"{value:.6g}") for name, value in metrics.items()}
        try:
            with (self.path / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            why = in_one_line(error)
            raise UserError(f"cannot write {self.path}: {why}; repeat the command then") from error

    def evaluations(self) -> list[dict[str, float]]:
        """The held-out lines so far."""
        return [line for line in self._lines() if line["split"] == "heldout"]

    def resume(self) -> State | None:
        """The newest whole state, with the metrics up to it; None at a run's beginning."""
        state = self.states.newest()
        last = sys.maxsize if is_finished(self.path) else state["step"] if state else -1
        self._drop_lines_after(last)
        return state

    def show(self, net: nn.Module) -> None:
        """Write small weights of a net on its way, for whoever cannot wait for the last."""
        save_weights(net, self.path / WEIGHTS_SO_FAR, torch.float16)

    def finish(self, weights: dict[str, Tensor], step: int) -> None:
        """Write the weights that the next stage reads, and after how many steps they are."""
        remove_weights(self.path / WEIGHTS_SO_FAR)
        if is_finished(self.path):
            return
        description = read_description(self.path) | {TAKEN: step}
        write_whole(self.path / "config.json", _as_json(description))
        save_tensors(weights, self.path / WEIGHTS)

    def _extend(self, description: dict[str, Any]) -> None:
        """Where the same run is wanted with more steps: go back to before its rate fell."""
        config = self.path / "config.json"
        if not config.is_file():
            return
        found, wanted = json.loads(config.read_text()), json.loads(_as_json(description))
        if "until" in found | wanted:
            return  # by the clock, nobody knows how many steps there will be
        old, new = (loop.get("loop", {}) for loop in (found, wanted))
        grows = old.get("num_steps", 0) < new.get("num_steps", 0) and new.get("schedule") == "wsd"
        longer = found | {"loop": old | {"num_steps": new.get("num_steps")}}
        if not grows or _that_count(longer) != _that_count(wanted):
            return
        self.states.forget_after(stable_steps(old["num_steps"], old["decay_share"]))
        if is_finished(self.path):
            shorter = self.path / f"weights-{old['num_steps']}-steps.safetensors"
            os.replace(self.path / WEIGHTS, shorter)
        write_whole(config, _as_json(description))

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

    What leaves the result as it is, such as how often to save, may have changed.

    Raises:
        UserError: naming the first setting that differs and counts.
    """
    path = folder / "config.json"
    wanted = json.loads(_as_json(description))
    if path.is_file():
        found = json.loads(path.read_text())
        different = _first_difference(_that_count(_known(found, wanted)), _that_count(wanted))
        if different:
            raise UserError(
                f"{folder} holds a run with other settings ({different}): repeat its command to "
                "go on, delete it to start it over, or choose another --run folder"
            )
        wanted |= {TAKEN: found[TAKEN]} if TAKEN in found else {}
        if found == wanted:
            return
    with writing(folder):
        write_whole(path, _as_json(wanted))


def _known(found: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """What was found; older runs name only the place of prepared data, and get the rest here."""
    data = wanted.get("data")
    is_there = isinstance(data, dict) and data.get("places") == [found.get("data")]
    return found | {"data": data} if is_there else found


def _that_count(description: dict[str, Any]) -> dict[str, Any]:
    """A description without what a run may change on its way, and what it says at its end.

    Data is what it holds, wherever it lies.
    """
    told = {k: v for k, v in description.items() if k != TAKEN}
    if isinstance(told.get("data"), dict):
        told["data"] = {k: v for k, v in told["data"].items() if k != "places"}
    # Runs of before there was a choice name no optimiser.
    loop = {"optimizer": "adamw"} | description.get("loop", {})
    loop = {k: v for k, v in loop.items() if k not in FREE_SETTINGS}
    if "until" in told:  # a run by the clock that saved nothing yet may be given other seconds
        told, loop = told | {"until": "by the clock"}, loop | {"num_steps": "by the clock"}
    return told | {"loop": loop}


def _as_json(description: dict[str, Any]) -> str:
    return json.dumps(description, indent=1, default=str) + "\n"


def _explain(folder: Path, then: Sequence[str]) -> str:
    """What somebody who finds the folder needs to know."""
    commands = "\n".join(then)
    afterwards = f"\nWhen it is finished:\n\n```sh\n{commands}\n```\n" if then else ""
    return f"""# A training run: {folder.name}

To go on, or to repeat it:

```sh
{command_line()}
```

| file | holds |
|---|---|
| config.json | every setting, and the fingerprint of the data |
| starts.jsonl | for every start the command, git commit and versions |
| metrics.jsonl | what was measured, a line each |
| samples/ | pictures made on the way |
| state-NUMBER.pt | everything needed to go on from that step |
| weights.safetensors | the result, once the run is finished |
| weights-so-far*.safetensors | averaged, a minute old at most, while a run by the clock goes on |
{afterwards}"""


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
    return (folder / WEIGHTS).is_file()


def load_finished(net: nn.Module, folder: Path) -> nn.Module:
    """The net with a finished stage's weights, in evaluation mode.

    Raises:
        UserError: if the stage has not finished.
    """
    if not is_finished(folder):
        raise UserError(
            f"{folder} holds no finished training: run train/{folder.name}.py to its end first"
        )
    load_weights(net, folder / WEIGHTS)
    return net.eval()


def _first_difference(found: Any, wanted: Any, name: str = "") -> str:
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted(found.keys() | wanted.keys()):
            difference = _first_difference(found.get(key), wanted.get(key), f"{name}.{key}")
            if difference:
                return difference
        return ""
    return "" if found == wanted else f"{name.lstrip('.')}: {found} there, {wanted} now"
