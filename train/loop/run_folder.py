"""A stage's folder on disk: its settings, its progress and its result.

`README.md` and `config.json` describe the run; `starts.jsonl` and `metrics.jsonl` grow by a line
for every start and measurement; `state-NUMBER.pt` holds everything needed to resume; and
`weights.safetensors` exists only when the stage is finished and its result was accepted. Only one
process at a time writes, and all but the two lists appear whole or not at all. Trains nothing.
"""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

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

Net = TypeVar("Net", bound=nn.Module)
# Longer than the second in which a stage notices that its parent was killed (`genie.orphans`).
LOCK_SECONDS = 3.0
WEIGHTS = "weights.safetensors"
WEIGHTS_SO_FAR = "weights-so-far.safetensors"
TAKEN = "steps_taken"  # in config.json of a finished run: how many steps it took
FREE_SETTINGS = {"log_every", "save_every", "keep_states", "trackers", "num_workers"}


class RunFolder:
    """A run's folder, locked by this process for as long as the object lives."""

    def __init__(
        self,
        path: Path,
        description: dict[str, Any],
        keep_states: int = 2,
        *,
        then: Sequence[str] = (),
    ) -> None:
        """Make the folder, or open it to resume the same run, which may have more steps now.

        Args:
            path: of the folder.
            description: all that determines the result.
            keep_states: how many of the latest states stay.
            then: commands that use the result, for README.md.

        Raises:
            UserError: if another process uses it, it holds a run of other settings, or it cannot
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
        line: dict[str, float | str] = {"step": step, "split": split}
        line |= {name: float(f"{value:.6g}") for name, value in metrics.items()}
        try:
            with (self.path / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            why = in_one_line(error)
            raise UserError(
                f"cannot write {self.path}: {why}; fix this and repeat the command to go on"
            ) from error

    def evaluations(self) -> list[dict[str, float]]:
        """The lines of held-out metrics so far."""
        return [line for line in self._lines() if line["split"] == "heldout"]

    def resume(self) -> State | None:
        """Return the newest whole state, or None, and drop the metrics of later steps."""
        state = self.states.newest()
        last = sys.maxsize if is_finished(self.path) else state["step"] if state else -1
        self._drop_lines_after(last)
        return state

    def show(self, net: nn.Module) -> None:
        """Write float16 weights of an unfinished run, for those who cannot wait for its end."""
        save_weights(net, self.path / WEIGHTS_SO_FAR, torch.float16)

    def finish(self, weights: dict[str, Tensor], step: int) -> None:
        """Write the weights that the next stage reads, and how many steps they took."""
        remove_weights(self.path / WEIGHTS_SO_FAR)
        if is_finished(self.path):
            return
        description = read_description(self.path) | {TAKEN: step}
        write_whole(self.path / "config.json", _as_json(description))
        save_tensors(weights, self.path / WEIGHTS)

    def _extend(self, description: dict[str, Any]) -> None:
        """If the same run is to have more steps, go back to the state before its rate fell."""
        config = self.path / "config.json"
        if not config.is_file():
            return
        found, wanted = json.loads(config.read_text()), json.loads(_as_json(description))
        if "until" in found | wanted:
            return  # by the clock, the number of steps is not known
        old, new = found.get("loop", {}), wanted.get("loop", {})
        grows = old.get("num_steps", 0) < new.get("num_steps", 0) and new.get("schedule") == "wsd"
        longer = found | {"loop": old | {"num_steps": new.get("num_steps")}}
        if not grows or _relevant(longer) != _relevant(wanted):
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
            except ValueError:  # torn by a kill; the newest state is older, so nothing is lost
                continue
        return lines

    def _drop_lines_after(self, step: int) -> None:
        kept = [json.dumps(line) + "\n" for line in self._lines() if line["step"] <= step]
        write_whole(self.path / "metrics.jsonl", "".join(kept))


def claim(folder: Path, description: dict[str, Any]) -> None:
    """Write a run's description into its folder, or check that the folder holds the same run.

    Settings that do not affect the result, such as how often to save, may differ.

    Raises:
        UserError: naming the first setting that differs and affects the result.
    """
    path = folder / "config.json"
    wanted = json.loads(_as_json(description))
    if path.is_file():
        found = json.loads(path.read_text())
        different = _first_difference(_relevant(_updated(found, wanted)), _relevant(wanted))
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


@contextmanager
def claiming(folder: Path, description: dict[str, Any]) -> Iterator[None]:
    """As `claim`, but a folder that was not claimed before is free again if an error follows.

    A folder claimed for videos that turn out to be unusable would refuse the right ones.

    Raises:
        UserError: see `claim`.
    """
    path = folder / "config.json"
    is_new = not path.exists()
    claim(folder, description)
    try:
        yield
    except UserError:
        if is_new:
            path.unlink(missing_ok=True)
        raise


def _updated(found: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """The description found; one of an older version names only the place of its data."""
    data = wanted.get("data")
    is_there = isinstance(data, dict) and data.get("places") == [found.get("data")]
    return found | {"data": data} if is_there else found


def _relevant(description: dict[str, Any]) -> dict[str, Any]:
    """The part of a description that determines the result.

    Data is compared by its content, not by its place.
    """
    settings = {k: v for k, v in description.items() if k != TAKEN}
    if isinstance(settings.get("data"), dict):
        settings["data"] = {k: v for k, v in settings["data"].items() if k != "places"}
    # Runs from before tokens had digits, and before there was a choice of optimisers, name none.
    model = settings.get("model")
    if isinstance(model, dict) and "codebook_size" in model:
        settings["model"] = {"factors": []} | model
    loop = {"optimizer": "adamw"} | description.get("loop", {})
    loop = {k: v for k, v in loop.items() if k not in FREE_SETTINGS}
    if "until" in settings:  # until a run by the clock has saved a state, its seconds may change
        settings, loop = settings | {"until": "by the clock"}, loop | {"num_steps": "by the clock"}
    return settings | {"loop": loop}


def _as_json(description: dict[str, Any]) -> str:
    return json.dumps(description, indent=1, default=str) + "\n"


def _explain(folder: Path, then: Sequence[str]) -> str:
    """The README.md of a run folder."""
    commands = "\n".join(then)
    afterwards = f"\nWhen it is finished:\n\n```sh\n{commands}\n```\n" if then else ""
    return f"""# A training run: {folder.name}

To resume or repeat it:

```sh
{command_line()}
```

| file | holds |
|---|---|
| config.json | every setting, and the fingerprint of the data |
| starts.jsonl | for every start the command, git commit and versions |
| metrics.jsonl | one line for every measurement |
| samples/ | pictures drawn during training |
| state-NUMBER.pt | everything needed to resume after that step |
| weights.safetensors | the result, once the run is finished |
| weights-so-far*.safetensors | averaged weights of a run by the clock, rewritten every minute |
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


def load_finished(net: Net, folder: Path) -> Net:
    """Load a finished stage's weights into a net, and set it to evaluation mode.

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
