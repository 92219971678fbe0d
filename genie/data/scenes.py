"""Which pictures of a video to learn from: finds cuts, drops long standstills and repeats.

In: pictures one after the other. Out: those to keep, each with its number, and where scenes begin.
Knows no files.

A cut is a change that no shift of the view explains, and that stands out from the changes around
it; fast scrolling and constant large changes, as in fast games, are no cuts. Measured on joined
episodes of six Procgen games (17,500 frames): 71 to 95 % of the joints are found (most others join
similar pictures), and at most 0.3 of 1,000 frames within an episode are taken for cuts; in a
seventh game, Jumper with random buttons, 2.3 are, where a fast scroll follows a rest.
`tests/test_scenes.py` repeats this on two of the games.
Source: ratio to the neighbours as in PySceneDetect's AdaptiveDetector; displaced frame difference
as in motion compensation.
"""

from collections import deque
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from PIL import Image

GRAIN = 8  # values of like pictures differ by at most this, of 255
NEIGHBOURS = 2  # changes compared on either side
GRID = 16  # pictures are compared at about this many rows and columns
REACH = 5, 3  # rows and columns of the grid that the view may shift by, either way
LEAST_EXCESS = 1.25  # shifts are tried if a change is this many times its neighbours'


@dataclass(frozen=True, kw_only=True)
class SceneRules:
    """Where scenes are cut and which pictures are dropped."""

    cut_above: float = 18.0
    """Smallest mean change of a cut, 0..255, after the best shift."""
    cut_ratio: float = 2.0
    """Smallest ratio of a cut's change to the mean change of its neighbours."""
    still_below: float = 0.4
    """Mean difference, 0..255, up to which a picture repeats the first one of a standstill."""
    most_still: int | None = None
    """How many repeats in a row are kept; None keeps all, 0 drops every one."""


@dataclass(frozen=True)
class Kept:
    """A picture to keep."""

    picture: np.ndarray
    """uint8 (h, w, 3)."""
    number: int
    """Among all pictures of the video, from 0."""
    starts_scene: bool
    """Whether no clip may hold both it and pictures before it."""


def keep(
    pictures: Iterator[np.ndarray], rules: SceneRules, joints: Container[int] = ()
) -> Iterator[Kept]:
    """The pictures to keep, in order, `NEIGHBOURS` pictures behind what is read.

    Args:
        joints: numbers of pictures that begin a scene whatever they show; each may be added as
            late as when the picture itself is read.
    """
    reference: np.ndarray | None = None
    num_still = 0
    for number, (picture, is_cut) in enumerate(_find_cuts(pictures, rules)):
        starts_scene = is_cut or number in joints
        may_drop = rules.most_still is not None and not starts_scene
        if may_drop and reference is not None and _change(picture, reference) <= rules.still_below:
            num_still += 1
            if num_still > rules.most_still:
                continue
        else:
            num_still, reference = 0, picture
        yield Kept(picture, number, starts_scene)


class _Step:
    """The change from one picture to the next, both reduced to a grid."""

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
    """For every shift, the weight of each value in the mean over the overlap.

    Pictures, and so their grids, have at least 8 rows and columns: no overlap is empty.
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
    waiting: deque[np.ndarray] = deque()  # read, not yet yielded
    steps: deque[_Step | None] = deque([None] * NEIGHBOURS)  # into the last yielded, then these
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
    """Whether the step in the middle is a cut; at the end of the video, fewer steps follow it."""
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
    """The mean, larger changes counted as `most`: two cuts in a row do not hide each other."""
    return sum(min(change, most) for change in changes) / max(1, len(changes))


def _grid(picture: np.ndarray) -> np.ndarray:
    height, width, _ = picture.shape
    factors = max(1, width // GRID), max(1, height // GRID)
    image = Image.frombuffer("RGB", (width, height), np.ascontiguousarray(picture))
    return np.asarray(image.reduce(factors), dtype=np.int16)


def is_like(picture: np.ndarray, other: np.ndarray) -> bool:
    """Whether two pictures differ nowhere by more than what a codec adds (`GRAIN`)."""
    if picture is other:
        return True
    difference = np.maximum(picture, other) - np.minimum(picture, other)
    return int(difference.max()) <= GRAIN


def _change(picture: np.ndarray, other: np.ndarray) -> float:
    """Mean absolute difference, 0..255."""
    difference = np.subtract(picture, other, dtype=np.int16)
    return int(np.abs(difference, out=difference).sum()) / difference.size
