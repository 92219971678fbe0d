"""What of a video is worth learning from: no cut inside a scene, no long standstill, no doubles.

In: pictures one after the other. Out: those to keep, each with its number, and where scenes begin.
A cut is a change that stands out from the changes around it, so that a quick game, which changes
much all the time, is not cut to pieces. Knows no files.

Source: the rule is that of PySceneDetect's AdaptiveDetector, on mean differences of small pictures.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

NEIGHBOURS = 2  # changes looked at on either side


@dataclass(frozen=True, kw_only=True)
class SceneRules:
    """What is cut and what is dropped."""

    cut_above: float = 18.0
    """Least mean change of a cut, 0..255; 255 never cuts."""
    cut_ratio: float = 3.0
    """How many times the mean change of its neighbours a cut is."""
    still_below: float = 0.4
    """Mean difference, 0..255, up to which a picture counts as the one kept before it."""
    most_still: int | None = None
    """How many such pictures in a row are kept; None keeps all, 0 drops every double."""


@dataclass(frozen=True)
class Kept:
    """A picture worth keeping."""

    picture: np.ndarray
    """uint8 (h, w, 3)."""
    number: int
    """Among all pictures of the video, from 0."""
    starts_scene: bool
    """Whether no clip may reach back beyond it."""


def keep(pictures: Iterator[np.ndarray], rules: SceneRules) -> Iterator[Kept]:
    """The pictures to keep, in order, at most a few behind what is read."""
    kept: np.ndarray | None = None
    num_still, cut_waits = 0, False
    for number, (picture, cuts) in enumerate(_find_cuts(pictures, rules)):
        cut_waits |= cuts  # a cut into a picture that is dropped holds for the next one
        if kept is not None and not cut_waits and _change(picture, kept) <= rules.still_below:
            num_still += 1
            if rules.most_still is not None and num_still > rules.most_still:
                continue
        else:
            num_still, kept = 0, picture
        yield Kept(picture, number, cut_waits)
        cut_waits = False


def _find_cuts(
    pictures: Iterator[np.ndarray], rules: SceneRules
) -> Iterator[tuple[np.ndarray, bool]]:
    """Every picture, and whether it begins a scene; the first one does."""
    waiting: deque[np.ndarray] = deque()  # not yet given out
    changes: deque[float] = deque([0.0] * NEIGHBOURS)  # of the last given out, then of the waiting
    previous: np.ndarray | None = None
    for picture in pictures:
        changes.append(255.0 if previous is None else _change(picture, previous))
        waiting.append(picture)
        previous = picture
        if len(waiting) > NEIGHBOURS:
            yield waiting.popleft(), _is_cut(list(changes), rules)
            changes.popleft()
    while waiting:
        yield waiting.popleft(), _is_cut(list(changes), rules)
        changes.popleft()


def _is_cut(changes: list[float], rules: SceneRules) -> bool:
    """Whether the change in the middle is one; past the end there are fewer neighbours."""
    change = changes[NEIGHBOURS]
    around = changes[:NEIGHBOURS] + changes[NEIGHBOURS + 1 : 2 * NEIGHBOURS + 1]
    # The first picture's change of 255 is no change of the game's.
    around = [min(other, change) if other < 255 else 0.0 for other in around]
    return change >= rules.cut_above and change > rules.cut_ratio * sum(around) / (2 * NEIGHBOURS)


def _change(picture: np.ndarray, other: np.ndarray) -> float:
    """Mean absolute difference, 0..255."""
    return float(np.abs(picture.astype(np.int16) - other).mean())
