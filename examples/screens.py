"""Converts what a Gymnasium environment shows to pictures: uint8, RGB, one size, or an error.

In: its observations, or what `render()` returns. Out: uint8 (h, w, 3). Knows no actions.
"""

from typing import Any

import numpy as np

from genie.errors import UserError

ROUNDING = 1e-3  # by which floats may exceed their range
MOST_DARK = 100  # first pictures that are not black, but have no value above 1; then it is an error
SMALLEST = 16  # least pixels per side of an observation that is a picture and no grid of symbols


class Screen:
    """Converts what one environment shows to pictures, and rejects what is not a picture."""

    def __init__(self, env: Any, name: str) -> None:
        """Args: env: a Gymnasium environment without wrappers; name: its id, for errors."""
        self._env, self._name = env, name
        self._observes = _is_picture_space(env.observation_space)
        self._shape: tuple[int, ...] | None = None
        self._peak: float | None = None
        self._num_dark: int | None = 0  # dark pictures so far; None after a bright one

    def restart(self) -> None:
        """Begin an episode, whose pictures may have another size."""
        self._shape = None

    def picture(self, observation: Any) -> np.ndarray:
        """Return what is shown now, uint8 (h, w, 3), with transparency on white.

        Args:
            observation: the newest one; if it is no picture, the environment renders one.

        Raises:
            UserError: if there is no picture, or its size or range differs from earlier ones.
        """
        shown = observation if self._observes else self._env.render()
        picture = self._coloured(self._array(shown))
        if self._shape not in (None, picture.shape):
            raise self._refusal(f"a picture of {picture.shape} after one of {self._shape}")
        self._shape = picture.shape
        return picture

    def _array(self, shown: Any) -> np.ndarray:
        """Return a uint8 array (h, w, channels) with 1, 3 or 4 channels."""
        array = _as_array(shown)
        if array.dtype.kind not in "buif":
            raise self._refusal(f"{type(shown).__name__}, which is no picture")
        if array.ndim == 2:
            array = array[..., None]
        if array.ndim == 3 and array.shape[2] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
            array = np.moveaxis(array, 0, -1)
        if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or min(array.shape[:2]) < 8:
            raise self._refusal(f"an array of shape {array.shape}, which is no picture")
        if array.dtype.kind in "ui":
            self._look_for_light(array)
        return array if array.dtype == np.uint8 else self._ranged(array)

    def _look_for_light(self, array: np.ndarray) -> None:
        """Reject integers that are 0 and 1 for long: they would look black."""
        if self._num_dark is None or not array.any():
            return
        self._num_dark = self._num_dark + 1 if array.max() <= 1 else None
        if self._num_dark == MOST_DARK:
            raise self._refusal("numbers of 0 and 1 only, which are black")

    def _ranged(self, array: np.ndarray) -> np.ndarray:
        """Convert to uint8: floats and bools of 0..1 are scaled, values of 0..255 are not."""
        low, high = float(array.min()), float(array.max())
        if not (low >= -ROUNDING and high <= 255 + ROUNDING):  # also true for NaN
            raise self._refusal(f"values from {low:g} to {high:g}, not from 0 to 1 or 255")
        if array.dtype.kind in "ui":
            return array.astype(np.uint8)
        peak = 1.0 if high <= 1 + ROUNDING else 255.0
        if high > 0 and array.dtype.kind == "f":  # a black picture fits both ranges
            if self._peak not in (None, peak):
                raise self._refusal("pictures of 0 to 1 and of 0 to 255: its range is unclear")
            self._peak = peak
        return np.round(array.clip(0, peak) * (255 / peak)).astype(np.uint8)

    def _coloured(self, array: np.ndarray) -> np.ndarray:
        if array.shape[2] == 4:
            alpha = array[..., 3:].astype(np.uint16)
            blended = array[..., :3] * alpha + 255 * (255 - alpha)
            return ((blended + 127) // 255).astype(np.uint8)
        return np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array

    def _refusal(self, what: str) -> UserError:
        return UserError(
            f"{self._name} shows {what}: wrap the environment so that render() gives uint8 "
            "pictures (height, width, 3), or choose another game"
        )


def _as_array(shown: Any) -> np.ndarray:
    try:
        return np.asarray(shown)
    except ValueError:  # lists of unequal lengths
        return np.empty(0, object)


def _is_picture_space(space: Any) -> bool:
    shape = getattr(space, "shape", None) or ()
    is_picture = len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)
    return is_picture and min(shape[:2]) >= SMALLEST and space.dtype == np.uint8
