"""Keys to latent actions: held keys in, one action (or none) out.

Keys have names here, not codes: "left", "right", "up", "down", letters, "space" and the digits "1"
to "9". Deliberately knows nothing of pygame or browsers, so that every screen can share it.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Self

from genie.errors import UserError
from genie.legend import ARROWS, FREE_KEYS, Legend

ALIASES = {"a": "left", "d": "right", "w": "up", "s": "down"}
"""What letters stand for that are not bound themselves."""
SYNONYMS = {"jump": "up", "wait": "none", "stay": "none"}
"""Further words for --actions, where the world's own legend does not use them."""
MAX_DIGITS = 9


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
    action_names: tuple[str, ...] = ()
    """What each action does, such as "slow right"; empty where that was not measured."""

    @classmethod
    def load(cls, folder: Path, num_actions: int) -> Self:
        """The legend of a world's folder if it has one, otherwise the plain order.

        Raises:
            UserError: if the legend is there and not usable.
        """
        legend = Legend.load(folder, num_actions)
        if legend is None:
            return cls.plain(num_actions)
        return cls(
            num_actions=num_actions,
            bindings=legend.keys,
            has_legend=True,
            action_names=legend.action_names,
        )

    @classmethod
    def plain(cls, num_actions: int) -> Self:
        """Left, right, up, down stand for actions 0, 1, 2, 3: a start where nothing is known."""
        bindings = dict(zip(ARROWS, range(num_actions), strict=False))
        return cls(num_actions=num_actions, bindings=bindings, has_legend=False)

    @property
    def num_digits(self) -> int:
        """How many digit keys act."""
        return min(self.num_actions, MAX_DIGITS)

    @property
    def vocabulary(self) -> dict[str, int]:
        """Words for actions in a command: names of keys and what the actions do, with _ for gaps.

        Of actions that do the same, the one that has an arrow or comes first.
        """
        named = {_one_word(self.name_of(action)): action for action in reversed(self._by_rank())}
        words = {word: self.bindings[key] for word, key in SYNONYMS.items() if key in self.bindings}
        return words | named | dict(self.bindings)

    def name_of(self, action: int) -> str:
        """What an action does, as the legend has it; "action 3" if there is none."""
        return self.action_names[action] if self.action_names else f"action {action + 1}"

    def choose(self, held: Sequence[str]) -> Press | None:
        """What to do under these keys; None means that the world waits.

        The most recent key wins. Two arrows across each other are a chord if the legend has it.

        Args:
            held: names of the keys that are down, oldest first.
        """
        meant = [key if key in self.bindings else ALIASES.get(key, key) for key in held]
        for position in reversed(range(len(meant))):
            press = self._chord(meant[: position + 1]) or self._single(meant[position])
            if press:
                return press
        return self._bound("none")

    def names_of(self, action: int) -> tuple[str, ...]:
        """Keys and chords bound to `action`, in the order of the legend."""
        return tuple(name for name, bound in self.bindings.items() if bound == action)

    def rebound(self, key: str, action: int) -> "KeyMap":
        """The same with one of `FREE_KEYS` bound to an action, whatever it stood for before.

        Raises:
            UserError: if the key cannot be bound, or there is no such action.
        """
        if key not in FREE_KEYS:
            raise UserError(f"{key} cannot be bound: press an arrow, a letter or the space bar")
        if not 0 <= action < self.num_actions:
            raise UserError(f"action {action} does not exist: use 0..{self.num_actions - 1}")
        return replace(self, bindings={**self.bindings, key: action})

    def _by_rank(self) -> list[int]:
        arrows = [self.bindings[arrow] for arrow in ARROWS if arrow in self.bindings]
        return list(dict.fromkeys([*arrows, *range(self.num_actions)]))

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
        self._held: dict[Hashable, str] = {}
        self._is_fresh: set[Hashable] = set()
        self._is_released: set[Hashable] = set()

    @property
    def names(self) -> tuple[str, ...]:
        """Of the keys that count for this tick, oldest first."""
        return tuple(self._held.values())

    def press(self, source: Hashable, name: str) -> None:
        """Note that a key went down: it is now the most recent one.

        Args:
            source: which key, button or finger it is; several may have one name.
            name: as in `KeyMap`.
        """
        self._held.pop(source, None)
        self._held[source] = name
        self._is_fresh.add(source)
        self._is_released.discard(source)

    def release(self, source: Hashable) -> None:
        """Note that it went up."""
        if source in self._is_fresh:
            self._is_released.add(source)
        else:
            self._held.pop(source, None)

    def take(self) -> tuple[str, ...]:
        """The same names. Ends the tick."""
        taken = self.names
        for source in self._is_released:
            del self._held[source]
        self._is_fresh.clear()
        self._is_released.clear()
        return taken


def _one_word(name: str) -> str:
    return name.replace(", ", "_").replace(" ", "_")
