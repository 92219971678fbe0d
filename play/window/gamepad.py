"""Gamepads: pygame's events in, key presses and releases out.

Stick and D-pad act as the arrow keys; the first four buttons as up (jump), Z, X and C; the left
shoulder button rewinds, "back" restarts and "start" pauses. Several gamepads may be used at once.
"""

from collections.abc import Iterator
from typing import NamedTuple

import pygame

DEAD_ZONE = 0.5
BUTTONS = {0: "up", 1: "z", 2: "x", 3: "c"}
COMMANDS = {4: pygame.K_BACKSPACE, 6: pygame.K_r, 7: pygame.K_p}
EVENTS = (
    pygame.JOYDEVICEADDED,
    pygame.JOYDEVICEREMOVED,
    pygame.JOYAXISMOTION,
    pygame.JOYHATMOTION,
    pygame.JOYBUTTONDOWN,
    pygame.JOYBUTTONUP,
)


class Change(NamedTuple):
    """A key that went down or up."""

    key: str | int
    """Name of an action's key, or pygame's key code of a command."""
    is_down: bool


class Gamepads:
    """Tracks which way each stick points, so that only changes are reported."""

    def __init__(self) -> None:
        self._down: set[tuple[int, str, str]] = set()

    def let_go(self) -> None:
        """Treat all sticks and D-pads as released, without reporting it."""
        self._down.clear()

    def changes(self, event: pygame.event.Event) -> Iterator[Change]:
        """The keys that an event of a gamepad presses or releases."""
        if event.type == pygame.JOYDEVICEREMOVED:
            yield from self._point(event.instance_id, "hat", set())
            for axis in (0, 1):
                yield from self._point(event.instance_id, f"axis {axis}", set())
        elif event.type == pygame.JOYHATMOTION:
            x, y = event.value
            wanted = {("left", "", "right")[x + 1], ("down", "", "up")[y + 1]} - {""}
            yield from self._point(event.instance_id, "hat", wanted)
        elif event.type == pygame.JOYAXISMOTION and event.axis in (0, 1):
            low, high = (("left", "right"), ("up", "down"))[event.axis]
            wanted = {low} if event.value < -DEAD_ZONE else {high}
            wanted = wanted if abs(event.value) > DEAD_ZONE else set()
            yield from self._point(event.instance_id, f"axis {event.axis}", wanted)
        elif event.type in (pygame.JOYBUTTONDOWN, pygame.JOYBUTTONUP):
            key = BUTTONS.get(event.button, COMMANDS.get(event.button))
            if key is not None:
                yield Change(key, event.type == pygame.JOYBUTTONDOWN)

    def _point(self, pad: int, part: str, wanted: set[str]) -> Iterator[Change]:
        before = {arrow for number, name, arrow in self._down if (number, name) == (pad, part)}
        self._down -= {(pad, part, arrow) for arrow in before}
        self._down |= {(pad, part, arrow) for arrow in wanted}
        yield from (Change(arrow, False) for arrow in sorted(before - wanted))
        yield from (Change(arrow, True) for arrow in sorted(wanted - before))
