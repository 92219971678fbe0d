"""Keys to latent actions: held keys in, one press (or none) out.

Keys are identified by name, not by code: "left", "right", "up", "down", letters, "space" and the
digits "1" to "9". Knows neither pygame nor browsers, so that window and page can share it.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from genie.errors import UserError
from genie.legend import ARROWS, FREE_KEYS, Legend
from play.game import Press, exactly

ALIASES = {"a": "left", "d": "right", "w": "up", "s": "down"}
"""Meaning of letters that are not bound themselves."""
SYNONYMS = {"jump": "up", "wait": "none", "stay": "none"}
"""Further words for --actions; the names of the world's legend take precedence."""
MAX_DIGITS = 9


@dataclass(frozen=True, kw_only=True)
class KeyMap:
    """What each key asks for. Digit 1 is always action 0, and so on."""

    num_actions: int
    """Number of actions of the world."""
    bindings: Mapping[str, int]
    """Latent action of each bound name in `genie.legend.NAMES`; "none" is for no key."""
    has_legend: bool
    """True if the bindings come from a legend, so that "left" does move left."""
    action_names: tuple[str, ...] = ()
    """Measured effect of each action, such as "slow right"; empty if not measured."""
    wishes: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Weights of the actions for each key that is a wish, see `genie.legend.Legend.wishes`; every
    other key stands for one action."""

    @classmethod
    def load(cls, folder: Path, num_actions: int, *, has_prior: bool = False) -> Self:
        """Read the legend in a world's folder; without one, the same as `plain`.

        Args:
            has_prior: whether the world can tell which action a wish means, see `Session.choose`.

        Raises:
            UserError: if there is a legend and it is not valid.
        """
        legend = Legend.load(folder, num_actions)
        if legend is None:
            return cls.plain(num_actions)
        return cls(
            num_actions=num_actions,
            bindings=legend.keys,
            has_legend=True,
            action_names=legend.action_names,
            wishes=legend.wishes if has_prior else {},
        )

    @classmethod
    def plain(cls, num_actions: int) -> Self:
        """Bind left, right, up, down to actions 0, 1, 2, 3, whatever these do."""
        bindings = dict(zip(ARROWS, range(num_actions), strict=False))
        return cls(num_actions=num_actions, bindings=bindings, has_legend=False)

    @property
    def num_digits(self) -> int:
        """Number of digit keys that stand for an action."""
        return min(self.num_actions, MAX_DIGITS)

    @property
    def vocabulary(self) -> dict[str, Press]:
        """Words for --actions: names of keys, and of actions, with _ for spaces.

        A key that is a wish outranks an action of that name, even under a synonym, such as "stay".
        Of actions with the same name, it means the one on an arrow key, else the first one.
        """
        keys = {key: press for key in (*self.bindings, *self.wishes) if (press := self._bound(key))}
        words = {word: keys[key] for word, key in SYNONYMS.items() if key in keys}
        wished = {word: press for word, press in words.items() if press.wish}
        ranked = reversed(self._by_rank())
        named = {_one_word(self.name_of(action)): exactly(action) for action in ranked}
        return words | named | wished | keys

    def name_of(self, action: int) -> str:
        """Name of an action in the legend; without one, its number from 1 on, as on the digits."""
        return self.action_names[action] if self.action_names else f"action {action + 1}"

    def choose(self, held: Sequence[str]) -> Press | None:
        """The press that these keys are; None means that the world waits.

        The most recent key wins. Two keys together are a chord if that chord is bound.

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
        """Return a copy in which `key`, one of `FREE_KEYS`, stands for `action`.

        Raises:
            UserError: if the key cannot be bound, or there is no such action.
        """
        if key not in FREE_KEYS:
            raise UserError(f"{key} cannot be bound: press an arrow, a letter or the space bar")
        if not 0 <= action < self.num_actions:
            raise UserError(f"action {action} does not exist: use 0..{self.num_actions - 1}")
        return self.with_own({key: action})

    def with_own(self, keys: Mapping[str, int]) -> "KeyMap":
        """Return a copy with the user's own bindings, which are no wishes, nor parts of any."""
        wishes = {key: wish for key, wish in self.wishes.items() if not {*key.split("_")} & {*keys}}
        return replace(self, bindings={**self.bindings, **keys}, wishes=wishes)

    def _by_rank(self) -> list[int]:
        arrows = [self.bindings[arrow] for arrow in ARROWS if arrow in self.bindings]
        return list(dict.fromkeys([*arrows, *range(self.num_actions)]))

    def _chord(self, held: Sequence[str]) -> Press | None:
        """The chord of the last key with the most recent other key that it has a chord with."""
        for earlier in reversed(held[:-1]):
            for chord in (f"{held[-1]}_{earlier}", f"{earlier}_{held[-1]}"):
                if chord in self.bindings or chord in self.wishes:
                    return self._bound(chord)
        return None

    def _single(self, key: str) -> Press | None:
        if key.isdecimal():
            action = int(key) - 1
            return exactly(action) if 0 <= action < self.num_digits else None
        return self._bound(key)

    def _bound(self, name: str) -> Press | None:
        wish = self.wishes.get(name)
        if name in self.bindings:
            return Press(self.bindings[name], name, wish)
        # A chord is a wish also where no action does both at once: the two take turns.
        return Press(_best(wish), name, wish) if wish else None


class HeldKeys:
    """Keys that are down. A tap shorter than a tick still counts for one tick."""

    def __init__(self) -> None:
        self._held: dict[Hashable, str] = {}
        self._pressed_now: set[Hashable] = set()
        self._released_now: set[Hashable] = set()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the keys that count for this tick, oldest first."""
        return tuple(self._held.values())

    def press(self, source: Hashable, name: str) -> None:
        """Record that a key went down: it is now the most recent one.

        Args:
            source: identifies the key, button or finger; several may share a name.
            name: as in `KeyMap`.
        """
        self._held.pop(source, None)
        self._held[source] = name
        self._pressed_now.add(source)
        self._released_now.discard(source)

    def release(self, source: Hashable) -> None:
        """Record that a key went up. Args: source: as in `press`."""
        if source in self._pressed_now:
            self._released_now.add(source)
        else:
            self._held.pop(source, None)

    def take(self) -> tuple[str, ...]:
        """Return `names` and end the tick."""
        taken = self.names
        for source in self._released_now:
            del self._held[source]
        self._pressed_now.clear()
        self._released_now.clear()
        return taken


def _best(wish: Sequence[float]) -> int:
    """The action that fits a wish best."""
    return wish.index(max(wish))


def _one_word(name: str) -> str:
    return name.replace(", ", "_").replace(" ", "_")
