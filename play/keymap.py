"""Keys to latent actions: held keys in, one action (or none) out.

Keys have names here, not codes: "left", "right", "up", "down" and the digits "1" to "9".
Deliberately knows nothing of pygame, so that every screen can share it.
"""

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

from genie.errors import UserError

ARROWS = ("left", "right", "up", "down")
CHORDS = ("left_up", "right_up", "left_down", "right_down")
NAMES = frozenset({*ARROWS, *CHORDS, "none"})
MAX_DIGITS = 9
LEGEND_FILE = "legend.json"


class Press(NamedTuple):
    """What the held keys ask for."""

    action: int
    """Latent action, 0..num_actions-1."""
    key: str
    """Name of the key, of the chord, or "none"."""


@dataclass(frozen=True, kw_only=True)
class KeyMap:
    """Which latent action each key stands for. Digit 1 is always action 0, and so on."""

    num_actions: int
    """Actions of the world."""
    bindings: Mapping[str, int]
    """Latent action of each name in `NAMES` that has one."""
    has_legend: bool
    """Whether the bindings were measured, so that "left" does mean left."""

    @classmethod
    def load(cls, folder: Path, num_actions: int) -> Self:
        """The legend of a world's folder if it has one, otherwise the plain order.

        Raises:
            UserError: if the legend is there and not usable.
        """
        path = folder / LEGEND_FILE
        if not path.exists():
            return cls.plain(num_actions)
        return cls(num_actions=num_actions, bindings=_read(path, num_actions), has_legend=True)

    @classmethod
    def plain(cls, num_actions: int) -> Self:
        """Left, right, up, down stand for actions 0, 1, 2, 3: a start where nothing is known."""
        bindings = dict(zip(ARROWS, range(num_actions), strict=False))
        return cls(num_actions=num_actions, bindings=bindings, has_legend=False)

    @property
    def num_digits(self) -> int:
        """How many digit keys act."""
        return min(self.num_actions, MAX_DIGITS)

    def choose(self, held: Sequence[str]) -> Press | None:
        """What to do under these keys; None means that the world waits.

        The most recent key wins. Two arrows across each other are a chord if the legend has it.

        Args:
            held: names of the keys that are down, oldest first.
        """
        for position in reversed(range(len(held))):
            press = self._chord(held[: position + 1]) or self._single(held[position])
            if press:
                return press
        return self._bound("none")

    def names_of(self, action: int) -> tuple[str, ...]:
        """Names bound to `action`, in the order of the legend."""
        return tuple(name for name, bound in self.bindings.items() if bound == action)

    def _chord(self, held: Sequence[str]) -> Press | None:
        """The chord of the last key with the most recent arrow across it."""
        for earlier in reversed(held[:-1]):
            for chord in (f"{held[-1]}_{earlier}", f"{earlier}_{held[-1]}"):
                if chord in self.bindings:
                    return self._bound(chord)
        return None

    def _single(self, key: str) -> Press | None:
        if key.isdecimal():
            action = int(key) - 1
            return Press(action, key) if 0 <= action < self.num_digits else None
        return self._bound(key)

    def _bound(self, name: str) -> Press | None:
        return Press(self.bindings[name], name) if name in self.bindings else None


class HeldKeys:
    """Keys that are down. A tap shorter than a tick still counts for one tick."""

    def __init__(self) -> None:
        self._held: dict[Hashable, None] = {}
        self._is_fresh: set[Hashable] = set()
        self._is_released: set[Hashable] = set()

    def press(self, key: Hashable) -> None:
        """Note that `key` went down: it is now the most recent one."""
        self._held.pop(key, None)
        self._held[key] = None
        self._is_fresh.add(key)
        self._is_released.discard(key)

    def release(self, key: Hashable) -> None:
        """Note that `key` went up."""
        if key in self._is_fresh:
            self._is_released.add(key)
        else:
            self._held.pop(key, None)

    def take(self) -> tuple[Hashable, ...]:
        """Keys that count for this tick, oldest first. Ends the tick."""
        taken = tuple(self._held)
        for key in self._is_released:
            del self._held[key]
        self._is_fresh.clear()
        self._is_released.clear()
        return taken


def _read(path: Path, num_actions: int) -> dict[str, int]:
    try:
        legend = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not readable JSON ({error}): mend or delete it") from error
    keys = legend.get("keys") if isinstance(legend, dict) else None
    if not isinstance(keys, dict):
        raise UserError(f'{path} has no "keys": write {{"keys": {{"left": 0, ...}}}} or delete it')
    for name, action in keys.items():
        if name not in NAMES:
            raise UserError(f"{path} binds {name!r}: use {', '.join(sorted(NAMES))}")
        # A bool would pass as an int.
        if type(action) is not int or not 0 <= action < num_actions:
            raise UserError(
                f"{path} binds {name!r} to {action!r}: this world's actions are "
                f"whole numbers in 0..{num_actions - 1}"
            )
    return keys
