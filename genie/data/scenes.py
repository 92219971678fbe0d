"""What of a video is worth learning from: no cut inside a scene, no long standstill, no doubles.

In: pictures one after the other. Out: those to keep, each with its number, and where scenes begin.
Knows no files.

A cut is a change that no shift of the view explains, and that stands out from the changes around
it: quick games scroll far and change much all the time, and are not cut to pieces. Measured on
episodes of six Procgen games put end to end (17,500 frames), 71 to 95 % of the joints are found,
the others mostly joining like pictures, and of 1,000 frames within an episode at most 0.3 count as
cuts; in a seventh, Jumper under random buttons, 2.3 do, where a rest ends in a fast scroll.
`tests/test_scenes.py` repeats it on two of them.
Source: ratio to the neighbours as in PySceneDetect's AdaptiveDetector; displaced frame difference
as in motion compensation.
"""

from collections import deque
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from PIL import Image

GRAIN = 8  # by which values of a picture that stands still may differ, of 255
NEIGHBOURS = 2  # changes looked at on either side
GRID = 16  # pictures are compared at about this many rows and columns
REACH = 5, 3  # rows and columns by which the view may have shifted, either way
LEAST_EXCESS = 1.25  # of a plain change over its neighbours, or shifts are not even tried


@dataclass(frozen=True, kw_only=True)
class SceneRules:
    """What is cut and what is dropped."""

    cut_above: float = 18.0
    """Least mean change of a cut, 0..255, after the best shift."""
    cut_ratio: float = 2.0
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


def keep(
    pictures: Iterator[np.ndarray], rules: SceneRules, joints: Container[int] = ()
) -> Iterator[Kept]:
    """The pictures to keep, in order, a few behind what is read.

    Args:
        joints: numbers of pictures that begin a scene whatever they show; may be told as late as
            with the picture itself.
    """
    kept: np.ndarray | None = None
    num_still = 0
    for number, (picture, is_cut) in enumerate(_find_cuts(pictures, rules)):
        starts_scene = is_cut or number in joints
        may_drop = rules.most_still is not None and not starts_scene
        if may_drop and kept is not None and _change(picture, kept) <= rules.still_below:
            num_still += 1
            if num_still > rules.most_still:
                continue
        else:
            num_still, kept = 0, picture
        yield Kept(picture, number, starts_scene)


class _Step:
    """From one picture to the next, both small."""

    def __init__(self, before: np.ndarray, grid: np.ndarray) -> None:
        self.before, self.grid = before, grid
        self.change = _change(grid, before)

    @cached_property
    def shifted_change(self) -> float:
        """The change where the two overlap, for the shift at which it is least."""
        height, width, _ = self.grid.shape
        rows, columns = REACH
        bordered = np.zeros((height + 2 * rows, width + 2 * columns, 3), np.float32)
        bordered[rows : rows + height, columns : columns + width] = self.before
        strides = bordered.strides[:2] + bordered.strides
        shape = 2 * rows + 1, 2 * columns + 1, height, width, 3
        shifted = np.lib.stride_tricks.as_strided(bordered, shape, strides, writeable=False)
        difference = np.abs(shifted - self.grid)
        weights = _overlaps(height, width)
        return float(np.einsum("ij,ij->i", difference.reshape(weights.shape), weights).min())


@cache
def _overlaps(height: int, width: int) -> np.ndarray:
    """For every shift the weight of every value in the mean over where the two overlap.

    Pictures, and so their grids, have at least 8 rows and columns: every shift leaves some.
    """
    rows, columns = REACH
    inside = np.pad(np.ones((height, width), np.float32), ((rows, rows), (columns, columns)))
    windows = np.lib.stride_tricks.sliding_window_view(inside, (height, width))
    overlaps = windows.reshape(-1, height * width).repeat(3, axis=1)
    return overlaps / overlaps.sum(axis=1, keepdims=True)


def _find_cuts(
    pictures: Iterator[np.ndarray], rules: SceneRules
) -> Iterator[tuple[np.ndarray, bool]]:
    """Every picture, and whether it begins a scene; the first one does."""
    waiting: deque[np.ndarray] = deque()  # not yet given out
    steps: deque[_Step | None] = deque([None] * NEIGHBOURS)  # into those given out, then these
    before: np.ndarray | None = None
    for picture in pictures:
        grid = _grid(picture)
        steps.append(None if before is None else _Step(before, grid))
        before = grid
        waiting.append(picture)
        if len(waiting) > NEIGHBOURS:
            yield waiting.popleft(), _is_cut(steps, rules)
            steps.popleft()
    while waiting:
        yield waiting.popleft(), _is_cut(steps, rules)
        steps.popleft()


def _is_cut(steps: Sequence[_Step | None], rules: SceneRules) -> bool:
    """Whether the step in the middle is one; past the end there are fewer."""
    step = steps[NEIGHBOURS]
    if step is None:
        return True  # no step leads into the first picture
    if step.change < rules.cut_above:
        return False
    around = [other for other in steps if other and other is not step]
    if step.change <= LEAST_EXCESS * _mean_up_to([s.change for s in around], step.change):
        return False
    shifted = step.shifted_change
    if shifted < rules.cut_above:
        return False
    return shifted > rules.cut_ratio * _mean_up_to([s.shifted_change for s in around], shifted)


def _mean_up_to(changes: Sequence[float], most: float) -> float:
    """Larger ones count as equal: two cuts in a row do not hide each other."""
    return sum(min(change, most) for change in changes) / max(1, len(changes))


def _grid(picture: np.ndarray) -> np.ndarray:
    height, width, _ = picture.shape
    factors = max(1, width // GRID), max(1, height // GRID)
    image = Image.frombuffer("RGB", (width, height), np.ascontiguousarray(picture))
    return np.asarray(image.reduce(factors), dtype=np.int16)


def is_like(picture: np.ndarray, other: np.ndarray) -> bool:
    """Whether two pictures differ by no more than what a codec adds, at any place."""
    if picture is other:
        return True
    difference = np.maximum(picture, other) - np.minimum(picture, other)
    return int(difference.max()) <= GRAIN


def _change(picture: np.ndarray, other: np.ndarray) -> float:
    """Mean absolute difference, 0..255."""
    difference = np.subtract(picture, other, dtype=np.int16)
    return int(np.abs(difference, out=difference).sum()) / difference.size
