"""The legend of a world: the file that says what its latent actions do, and which keys they get.

In: a world's folder. Out: keys and names, checked; or the file. Keys are named, such as "left",
"z" or "left_up". Knows neither how effects are measured nor how keys are read.
"""

import json
import math
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genie.errors import UserError
from genie.files import write_whole, writing

FILE_NAME = "legend.json"
STRIP_NAME = "legend.png"
"""Picture with one row per action: the prompt and the frames that the action leads to."""
ARROWS = ("left", "right", "up", "down")
CHORDS = ("left_up", "right_up", "left_down", "right_down")
DIRECTIONS = (*ARROWS, *CHORDS, "none")
"""Keys that say where to go, and do not stand for a certain action."""
UNASKED = frozenset({"down"})
"""What nobody presses and yet happens: to fall."""
LEAST = 0.02
"""Measured shares count as at least this, and as at most 1 less this."""
INSISTENCE = 2
"""How often a key counts as said; said once, the recorded player's habits win too often: see
checkpoints/README.md."""
FREE_KEYS = frozenset({*ARROWS, *string.ascii_lowercase, "space"})
"""Keys that an action can be bound to; not digits, which always select actions by number."""
NAMES = FREE_KEYS | {*CHORDS, "none"}


@dataclass(frozen=True, kw_only=True)
class Legend:
    """The part of a legend that play needs."""

    keys: Mapping[str, int]
    """From a name in `NAMES` to its latent action; not every name has one."""
    action_names: tuple[str, ...]
    """What each action does, such as "slow right"; empty where that was not measured."""
    wishes: Mapping[str, tuple[float, ...]]
    """For each of `DIRECTIONS` whose arrows have actions, the weight of each action: how well it
    does what the key says, and nothing else. Empty where that was not measured."""

    @classmethod
    def load(cls, folder: Path, num_actions: int) -> "Legend | None":
        """The legend of a world's folder, if it has one.

        Raises:
            UserError: if it cannot be read or does not fit the world.
        """
        path = folder / FILE_NAME
        if not path.exists():
            return None
        try:
            legend = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is not readable JSON ({error}): mend or delete it") from error
        keys = legend.get("keys") if isinstance(legend, dict) else None
        if not isinstance(keys, dict):
            raise UserError(
                f'{path} has no "keys": write {{"keys": {{"left": 0, ...}}}} or delete it'
            )
        check_bindings(keys, num_actions, path)
        actions = legend.get("actions")
        names = _action_names(actions, num_actions, path)
        wishes = _wishes(keys, actions) if names else {}
        return cls(keys=keys, action_names=names, wishes=wishes)


def save(
    folder: Path, keys: Mapping[str, int], effects: Sequence[Mapping[str, Any]], **facts: int
) -> None:
    """Write a legend.

    Args:
        effects: of each action, with its "name".
        facts: how it was measured, stored beside the keys.

    Raises:
        UserError: if it cannot be written.
    """
    values = {"keys": keys, **facts, "actions": effects}
    with writing(folder):
        write_whole(folder / FILE_NAME, json.dumps(values, indent=1) + "\n")


def check_bindings(keys: Mapping[Any, Any], num_actions: int, path: Path) -> None:
    """Check the key bindings of a file against a world's actions.

    Raises:
        UserError: naming the first one that does not fit.
    """
    for name, action in keys.items():
        if name not in NAMES:
            raise UserError(f"{path} binds {name!r}: use {', '.join(sorted(NAMES))}")
        # A bool would pass as an int.
        if type(action) is not int or not 0 <= action < num_actions:
            raise UserError(
                f"{path} binds {name!r} to {action!r}: this world's actions are "
                f"whole numbers in 0..{num_actions - 1}"
            )


def _action_names(actions: Any, num_actions: int, path: Path) -> tuple[str, ...]:
    if actions is None:
        return ()
    is_list = isinstance(actions, list) and all(isinstance(effect, dict) for effect in actions)
    names = tuple(effect.get("name") for effect in actions) if is_list else ()
    if len(names) != num_actions or not all(map(_is_name, names)):
        raise UserError(
            f'{path} must name {num_actions} "actions": measure it anew with python -m train.legend'
        )
    return names


def _wishes(
    keys: Mapping[str, int], actions: Sequence[Mapping[str, Any]]
) -> dict[str, tuple[float, ...]]:
    """See `Legend.wishes`; as if the directions in which an action moves were independent."""
    shares = [effect["agreements"] for effect in actions if _are_shares(effect.get("agreements"))]
    if len(shares) < len(actions):
        return {}
    wishes = {}
    for key in DIRECTIONS:
        wanted = set(key.split("_"))
        if not wanted <= keys.keys():
            continue
        wishes[key] = tuple(
            math.prod(
                _within(share[way] if way in wanted else 1 - share[way])
                for way in ARROWS
                if way in wanted or way not in UNASKED
            )
            ** INSISTENCE
            for share in shares
        )
    return wishes


def _within(share: float) -> float:
    """A share that is neither 0 nor 1, as none that was measured on a few dozen prompts can be."""
    return min(max(share, LEAST), 1 - LEAST)


def _are_shares(shares: Any) -> bool:
    return isinstance(shares, dict) and all(
        isinstance(shares.get(way), float | int) and 0 <= shares[way] <= 1 for way in ARROWS
    )


def _is_name(name: Any) -> bool:
    """Whether it is text that can be shown on one line."""
    return isinstance(name, str) and bool(name.strip()) and name.isprintable()
