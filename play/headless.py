"""Playing without a screen: actions in, a GIF or MP4 and the latencies out."""

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from genie import video
from genie.errors import UserError
from play.keymap import KeyMap
from play.recorder import Recorder

HOLD_FRAMES = 8
MAX_ACTIONS = 100_000
WALK = (
    (("right",), 12),
    (("right", "up"), 8),
    (("right",), 8),
    (("up",), 6),
    (("left",), 12),
    (("left", "up"), 8),
    ((), 6),
)
"""Held keys and for how many frames, about four seconds of play in all."""


def parse_actions(text: str, bindings: Mapping[str, int]) -> tuple[int, ...]:
    """Turn "3,right*8,0" into 3, eight times what "right" stands for, and 0.

    Args:
        bindings: latent action of each name that the world's legend has.

    Raises:
        UserError: if a part is neither a whole number nor such a name, or there are too many.
    """
    actions: list[int] = []
    for part in (part.strip() for part in text.split(",")):
        parsed = re.fullmatch(r"(-?[0-9]{1,9}|[a-z_]+)(?:\*([0-9]{1,6}))?", part)
        is_known = parsed and (parsed[1] in bindings or not parsed[1].isidentifier())
        if not is_known:
            names = ", ".join(sorted(bindings)) or "none here"
            raise UserError(
                f"{part!r} in --actions is no action: give numbers such as 3,3,0 or names of the "
                f"world's legend ({names}), such as right*8"
            )
        action = bindings[parsed[1]] if parsed[1] in bindings else int(parsed[1])
        actions += [action] * int(parsed[2] or 1)
        if len(actions) > MAX_ACTIONS:
            raise UserError(f"--actions has more than {MAX_ACTIONS} actions: give fewer")
    if not actions:
        raise UserError("--actions has no action: give at least one")
    return tuple(actions)


def check_actions(actions: Sequence[int], num_actions: int) -> None:
    """Hold a list of actions against a world before anything is generated.

    Raises:
        UserError: naming the first action that the world does not have.
    """
    for position, action in enumerate(actions, start=1):
        if not 0 <= action < num_actions:
            raise UserError(
                f"action {action} (number {position} in --actions) is not one of this world's: "
                f"use 0..{num_actions - 1}"
            )


def scripted_walk(keymap: KeyMap) -> tuple[int, ...]:
    """About 60 actions that show a world: a walk if its keys are known, else each action held."""
    if keymap.has_legend:
        presses = [(keymap.choose(held), num_frames) for held, num_frames in WALK]
        walk = [press.action for press, num_frames in presses if press for _ in range(num_frames)]
        if walk:
            return tuple(walk)
    return tuple(action for action in range(keymap.num_actions) for _ in range(HOLD_FRAMES))


def run(recorder: Recorder, actions: Sequence[int], export: Path, *, fps: float, scale: int) -> str:
    """Play `actions`, write every frame from the first on, and return one line of figures.

    Args:
        recorder: of a game that has just started.
        actions: at least one, each in 0..num_actions-1.
        export: where to; the ending chooses the format.
        fps: frames per second of the file.
        scale: whole-number enlargement of the file.

    Raises:
        UserError: if `export` cannot be written.
    """
    began = time.perf_counter()
    for action in actions:
        recorder.step(action)
    rate = len(actions) / (time.perf_counter() - began)
    video.write(export, recorder.frames, fps=fps, scale=scale)
    p50, p95 = np.percentile(recorder.latencies_ms, (50, 95))
    return (
        f"{len(recorder.frames)} frames written to {export}: "
        f"p50 {p50:.1f} ms, p95 {p95:.1f} ms, {rate:.1f} frames/s"
    )
