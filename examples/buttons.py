"""The buttons of a Gymnasium environment, for all kinds of discrete action spaces.

In: an environment. Out: combinations of buttons, each with the action that presses it. Neither
steps nor renders the environment.
"""

import itertools
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from genie.errors import UserError

DIRECTION = re.compile("UP|DOWN|LEFT|RIGHT|FIRE")
MOST_COMBOS = 256  # with more, a short recording shows hardly any of them twice
OPPOSITES = {"LEFT", "RIGHT"}, {"UP", "DOWN"}


@dataclass(frozen=True)
class Buttons:
    """The combinations of buttons that can be pressed."""

    combos: list[tuple[str, ...]]
    """Names of the buttons in each combination."""
    actions: list[Any]
    """The environment's action for each combination."""


def buttons_of(env: Any, name: str) -> Buttons:
    """Return the button combinations of an environment with discrete actions.

    If several buttons can be held (MultiBinary, MultiDiscrete), at most two are combined, or none
    if the pairs are too many; opposite directions never are.

    Args:
        env: a Gymnasium environment without wrappers.
        name: its id, for the error.

    Raises:
        UserError: if its actions are not discrete, or there are too many.
    """
    from gymnasium import spaces

    space = env.action_space
    if isinstance(space, spaces.Discrete):
        return _one_of(env, space)
    if isinstance(space, spaces.MultiBinary):
        return _together(space, np.zeros(space.shape), np.full(space.shape, 2), env, name)
    if isinstance(space, spaces.MultiDiscrete):
        return _together(space, space.start, space.nvec, env, name)
    raise UserError(f"{name} has no buttons but {space}: choose a game with discrete actions")


def _one_of(env: Any, space: Any) -> Buttons:
    numbers = list(range(int(space.start), int(space.start + space.n)))
    # Words such as NOOP, FIRE or UPRIGHTFIRE.
    words = env.get_action_meanings() if hasattr(env, "get_action_meanings") else None
    combos: list[tuple[str, ...]]
    if isinstance(words, (list, tuple)) and len(words) == len(numbers):
        combos = [tuple(DIRECTION.findall(str(word))) for word in words]
    else:
        combos = [(f"ACTION{number}",) for number in numbers]
    return Buttons(combos, numbers)


def _together(space: Any, start: np.ndarray, counts: np.ndarray, env: Any, name: str) -> Buttons:
    """Args: start: each button's position when released; counts: its number of positions."""
    rest, counts = np.asarray(start).ravel(), np.asarray(counts).ravel()
    labels = _labels(env, counts)
    num_presses = sum(int(count) - 1 for count, label in zip(counts, labels, strict=True) if label)
    if num_presses >= MOST_COMBOS:
        raise UserError(
            f"{name} has {num_presses} buttons and positions: choose a game with at most "
            f"{MOST_COMBOS - 1}"
        )
    presses = [
        (button, position)
        for button, count in enumerate(counts)
        if labels[button]
        for position in range(1, count)
    ]
    singles = [(), *((press,) for press in presses)]
    pairs = [
        pair
        for pair in itertools.combinations(presses, 2)
        if pair[0][0] != pair[1][0] and {labels[button] for button, _ in pair} not in OPPOSITES
    ]
    chosen = singles + pairs if len(singles + pairs) <= MOST_COMBOS else singles
    combos, actions = [], []
    for held in chosen:
        action = rest.copy()
        for button, position in held:
            action[button] += position
        actions.append(action.reshape(space.shape).astype(space.dtype))
        combos.append(
            tuple(
                labels[button] if counts[button] == 2 else f"{labels[button]}={position}"
                for button, position in held
            )
        )
    return Buttons(combos, actions)


def _labels(env: Any, counts: np.ndarray) -> list[str]:
    """A name for each button; "" for one without effect, which console emulators name None."""
    named = getattr(env, "buttons", None)
    if isinstance(named, (list, tuple)) and len(named) == len(counts):
        return [str(label or "") for label in named]
    return [f"BUTTON{number}" for number in range(len(counts))]
