"""The KV cache of running worlds: keys and values of the last frames, in memory of constant size.

In: keys and values of each finished frame. Out: what the next frames may attend to. The arrays may
be of any library that indexes as NumPy does, and on any device.

Source of the rotation: RoFormer (Su et al. 2021, arXiv:2104.09864).
"""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int, Int64

ROTARY_BASE = 1000.0

Array = Any  # of NumPy, or a tensor
FrameKeyValue = tuple[Array, Array]
"""Keys and values of one frame (l b n k e): by block, world, token, head, channel."""


class Past(NamedTuple):
    """What the next t frames need of the past, of which p frames are stored."""

    keys: Array
    """(l b n k p e)"""
    values: Array
    """(l b n k p e)"""
    cos: Array
    """(b 1 1 t e): cosines of the rotation by the position in time of each of the t frames."""
    sin: Array
    """(b 1 1 t e): its signed sines."""
    bias: Array
    """(b 1 1 t p+t): 0 where a frame may attend, else minus infinity; the past comes first."""


class Ring:
    """Keys and values of the last `capacity` frames, for every block of a stack.

    Rows of the batch are worlds of their own, each with its own age. All arrays stay where they
    are in memory: a new frame overwrites the oldest.
    """

    def __init__(
        self, keys: Array, values: Array, place: Callable[[np.ndarray], Array] = np.asarray
    ) -> None:
        """Start without a past.

        Args:
            keys, values: zeros (l b n k capacity e), which become the ring's own.
            place: brings the tables of `past` to where the keys are.
        """
        self.keys, self.values, self._place = keys, values, place
        self.capacity = keys.shape[4]
        self.num_frames = np.zeros(keys.shape[1], dtype=np.int64)
        self._pasts: dict[int, Past] = {}

    def past(self, num_next: int = 1) -> Past:
        """The past for the next `num_next` frames, valid until a frame is appended."""
        if num_next not in self._pasts:
            width = self.keys.shape[5]
            tables = _tables(self.num_frames, self.capacity, num_next, width)
            spread = (self._place(table[:, None, None]) for table in tables)
            self._pasts[num_next] = Past(self.keys, self.values, *spread)
        return self._pasts[num_next]

    def append(self, newest: FrameKeyValue) -> None:
        """Make a frame part of the past."""
        if self.capacity:
            rows, slots = np.arange(len(self.num_frames)), self.num_frames % self.capacity
            for stored, fresh in zip((self.keys, self.values), newest, strict=True):
                stored[:, rows, :, :, slots] = fresh.swapaxes(0, 1)  # this indexing puts rows first
        self.num_frames += 1
        self._pasts = {}

    def state(self) -> tuple[Array, Array, Int64[np.ndarray, " b"]]:
        """A copy of what `restore` needs."""
        return copy.deepcopy((self.keys, self.values, self.num_frames))

    def restore(self, state: tuple[Array, Array, Int64[np.ndarray, " _"]], row: int = 0) -> None:
        """Return to a state, which replaces as many rows as it has, from `row` on."""
        keys, values, num_frames = state
        rows = slice(row, row + len(num_frames))
        self.keys[:, rows], self.values[:, rows] = keys, values
        self.num_frames[rows] = num_frames
        self._pasts = {}


def rotation(
    positions: Int[np.ndarray, "*t"], head_dim: int
) -> tuple[Float32[np.ndarray, "*t {head_dim}"], Float32[np.ndarray, "*t {head_dim}"]]:
    """Cosines and signed sines that rotate pairs (i, i + head_dim/2) at each position in time."""
    # float64: a session may run for millions of frames and the angle must stay exact.
    exponent = np.arange(0, head_dim, 2) / head_dim
    angles = positions[..., None] * ROTARY_BASE**-exponent
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    return np.concatenate([cos, cos], axis=-1), np.concatenate([-sin, sin], axis=-1)


def bias(may_attend: Bool[np.ndarray, "*t s"]) -> Float32[np.ndarray, "*t s"]:
    """0 where a frame may attend, minus infinity elsewhere."""
    return np.where(may_attend, np.float32(0), np.float32(-np.inf))


def _tables(
    num_frames: Int64[np.ndarray, " b"], capacity: int, num_next: int, head_dim: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cosines, sines and bias (p+t wide) of the next t frames after a ring of p slots."""
    newest = num_frames[:, None] - 1
    # The number of the frame in each slot, negative if there is none.
    stored = newest - (newest - np.arange(capacity)) % max(capacity, 1)
    coming = num_frames[:, None] + np.arange(num_next)
    known = np.concatenate([stored, coming], axis=1)[:, None]
    distance = coming[..., None] - known
    may_attend = (known >= 0) & (distance >= 0) & (distance <= capacity)
    return *rotation(coming, head_dim), bias(may_attend)
