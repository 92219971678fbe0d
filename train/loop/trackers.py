"""Experiment trackers such as TensorBoard or wandb, as accelerate runs them; none is required.

In: an `Accelerator` that was made with the trackers' names. Out: a run's settings and pictures in
its trackers. Never changes what is trained.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator, tracking
from PIL import Image

from genie.errors import UserError

PROJECT = "genie"
PICTURE_OPTIONS = {"tensorboard": {"dataformats": "NHWC"}, "wandb": {}}
"""Options of `log_images`, by the name of a tracker that shows pictures."""


def check_trackers(names: Iterable[str]) -> None:
    """Refuse trackers that accelerate does not know, or would leave out without a word.

    Raises:
        UserError: if a name is unknown or its package is missing.
    """
    known = sorted(tracking.LOGGER_TYPE_TO_CLASS)
    installed = [str(name) for name in tracking.get_available_trackers()]
    for name in names:
        if name not in known:
            raise UserError(f"no tracker {name!r}: choose one of {', '.join(known)}")
        if name not in installed:
            raise UserError(f"the tracker {name} is not installed: pip install {name}")


def start_trackers(accelerator: Accelerator, description: dict[str, Any]) -> None:
    """Start the trackers in the main process and show them the settings of the run.

    Raises:
        UserError: if one cannot be started.
    """
    try:
        accelerator.init_trackers(PROJECT, _flatten(description))
    except Exception as error:  # each tracker raises its own exceptions
        names = ", ".join(map(str, accelerator.log_with))
        why = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"cannot start --loop.trackers ({names}): {why}") from error


def show_pictures(accelerator: Accelerator, folder: Path, step: int) -> None:
    """Hand the PNG files in `folder` to the trackers that show pictures."""
    for tracker in (t for t in accelerator.trackers if t.name in PICTURE_OPTIONS):
        pictures = {
            path.stem: np.asarray(Image.open(path).convert("RGB"))[None]
            for path in sorted(folder.glob("*.png"))
        }
        if pictures:
            tracker.log_images(pictures, step=step, **PICTURE_OPTIONS[tracker.name])


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, str | int | float]:
    """Name nested settings with dots; values that are not numbers become text."""
    flat: dict[str, str | int | float] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, int | float | str) else str(value)
    return flat
