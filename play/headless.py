"""Playing without a screen: parses or chooses actions, plays them, and measures the latency.

In: the text of --actions or a `KeyMap`. Out: presses, and one line of figures. Writes no files.
"""

import re
import time
from collections.abc import Mapping, Sequence

import numpy as np

from genie.errors import UserError
from play.game import Press, exactly
from play.keymap import KeyMap
from play.recording import Recording
from play.timeline import Playthrough

HOLD_FRAMES = 8
MAX_ACTIONS = 100_000
NUMBER = re.compile("-?[0-9]{1,9}")
WALK = (
    (("right",), 12),
    (("right", "up"), 3),
    (("right",), 10),
    (("up",), 3),
    ((), 5),
    (("left",), 12),
    (("left", "up"), 3),
    (("left",), 6),
    ((), 6),
)
"""Held keys and for how many frames, about four seconds in all.

The jumps are short: during a long jump the ground, and with it most of the level, leaves the frame.
"""


def parse_actions(text: str, vocabulary: Mapping[str, Press]) -> tuple[Press, ...]:
    """Turn "3,right*8,0" into action 3, eight times the key "right", and action 0.

    Args:
        vocabulary: what each word asks for, as in `KeyMap.vocabulary`.

    Raises:
        UserError: if a part is neither an integer nor a known word, or if there is no action or
            more than `MAX_ACTIONS`.
    """
    presses: list[Press] = []
    for part in (part.strip().lower().replace(" ", "_") for part in text.split(",")):
        parsed = re.fullmatch(r"([^*]+)(?:\*([0-9]{1,6}))?", part)
        is_known = parsed and (parsed[1] in vocabulary or NUMBER.fullmatch(parsed[1]))
        if not is_known:
            names = ", ".join(sorted(vocabulary)) or "it has none"
            raise UserError(
                f"{part!r} in --actions is not an action: give numbers such as 3,3,0 or names from "
                f"the world's legend ({names}), such as right*8"
            )
        word = parsed[1]
        press = vocabulary[word] if word in vocabulary else exactly(int(word))
        presses += [press] * int(parsed[2] or 1)
        if len(presses) > MAX_ACTIONS:
            raise UserError(f"--actions has more than {MAX_ACTIONS} actions: give fewer")
    if not presses:
        raise UserError("--actions has no action: give at least one")
    return tuple(presses)


def check_actions(actions: Sequence[int], num_actions: int, source: str = "--actions") -> None:
    """Check that a world has all of these actions, before anything is generated.

    Args:
        source: option or file that they come from, for the error.

    Raises:
        UserError: naming the first action that the world does not have.
    """
    for position, action in enumerate(actions, start=1):
        if not 0 <= action < num_actions:
            raise UserError(
                f"action {action} (number {position} in {source}) does not exist in this world: "
                f"use 0..{num_actions - 1}"
            )


def scripted_walk(keymap: KeyMap) -> tuple[Press, ...]:
    """Presses that show a world: `WALK` if it has a legend, else each for `HOLD_FRAMES`."""
    if keymap.has_legend:
        presses = [(keymap.choose(held), num_frames) for held, num_frames in WALK]
        walk = [press for press, num_frames in presses if press for _ in range(num_frames)]
        if walk:
            return tuple(walk)
    held = (exactly(action) for action in range(keymap.num_actions))
    return tuple(press for press in held for _ in range(HOLD_FRAMES))


def run(
    playthrough: Playthrough,
    presses: Sequence[Press],
    recording: Recording | None = None,
) -> str:
    """Play `presses` and return one line with latencies and the frame rate.

    Args:
        playthrough: one that has just started.
        presses: at least one, with actions in 0..num_actions-1.
        recording: a recording of these presses' actions, whose settings are used.
    """
    began = time.perf_counter()
    for number, press in enumerate(presses):
        settings = recording.settings_of(number) if recording else playthrough.settings
        if settings != playthrough.settings:
            playthrough.tune(settings)
        playthrough.follow(press)
    rate = len(presses) / (time.perf_counter() - began)
    p50, p95 = np.percentile(playthrough.latencies_ms, (50, 95))
    return f"p50 {p50:.1f} ms, p95 {p95:.1f} ms, {rate:.1f} frames/s"
