"""Experiment trackers, by the names that accelerate gives them; none is needed.

In: names such as "tensorboard" or "wandb". Out: objects that figures and pictures are shown to.
Never changes what is trained.
"""

import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from PIL import Image

from genie.errors import UserError

PROJECT = "genie"
WITH_PICTURES = ("tensorboard", "wandb")


def open_trackers(
    names: Iterable[str], folder: Path, description: dict[str, Any]
) -> list[GeneralTracker]:
    """Start the trackers of a run.

    Raises:
        UserError: if a name is unknown, its package is missing, or it cannot be started.
    """
    return [_open(name, folder, description) for name in names]


def show_pictures(trackers: Sequence[GeneralTracker], folder: Path, step: int) -> None:
    """Hand the PNG files in `folder` to the trackers that take pictures."""
    for tracker in (t for t in trackers if t.name in WITH_PICTURES):
        pictures = {
            path.stem: np.asarray(Image.open(path).convert("RGB"))[None]
            for path in sorted(folder.glob("*.png"))
        }
        if pictures:
            # Pictures come as n h w c, which TensorBoard has to be told.
            options = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images(pictures, step=step, **options)


def _open(name: str, folder: Path, description: dict[str, Any]) -> GeneralTracker:
    kinds = {str(getattr(kind, "value", kind)): made for kind, made in LOGGER_TYPE_TO_CLASS.items()}
    if name not in kinds:
        raise UserError(f"no tracker {name!r}: choose one of {', '.join(sorted(kinds))}")
    if importlib.util.find_spec(name) is None:
        raise UserError(f"the tracker {name} is not installed: pip install {name}")
    kind = kinds[name]
    try:
        tracker = kind(PROJECT, str(folder)) if kind.requires_logging_directory else kind(PROJECT)
        if hasattr(tracker, "start"):
            tracker.start()
        tracker.store_init_configuration(_flat(description))
    except Exception as error:  # whatever another service raises
        why = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"the tracker {name} does not start: {why}") from error
    return tracker


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, str | int | float]:
    """Nested settings by dotted names; what is no number is told as text."""
    flat: dict[str, str | int | float] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, int | float | str) else str(value)
    return flat
