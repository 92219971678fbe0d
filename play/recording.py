"""Recordings: small JSON files from which a playthrough can be played again.

In: a world's name and fingerprint, a prompt, a seed, settings, actions, and a digest of every
frame, by which a replay is checked. Out: a JSON file, and what is read from it. Knows no screens.
"""

import base64
import binascii
import hashlib
import json
import zlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np

from genie.errors import UserError
from genie.files import whole, writing
from genie.session import EngineName
from play.game import Settings

FORMAT_VERSION = 2
IN_BROWSER = "onnxruntime-web"
"""Engine of the recordings of a static site, see `play.site`."""
LARGEST_PROMPT = 64 * 2**20  # bytes, so that a forged file cannot fill the memory


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One playthrough. Its frames are stored as digests only."""

    world: str
    """Name of the world, for error messages."""
    fingerprint: str
    """Fingerprint of the world's configs and weights."""
    prompt: np.ndarray
    """uint8 (t, h, w, 3): the prompt frames."""
    seed: int
    """Seed of the sampler, 0..2^63-1."""
    settings: tuple[tuple[int, Settings], ...]
    """Runs of equal settings: number of the first action, beginning with 0, and the settings."""
    fps: float
    """Frames per second at which it was played, 0.1..240."""
    actions: tuple[int, ...]
    """Latent actions, in order."""
    digests: tuple[str, ...]
    """Digests of the first frame and of the frame after each action."""
    engine: EngineName | Literal["onnxruntime-web"] = "torch"
    """What computed the frames; another engine rounds differently."""

    def __post_init__(self) -> None:
        starts = [start for start, _ in self.settings]
        kinds = {
            str: (self.world, self.fingerprint, *self.digests),
            int: (self.seed, *self.actions, *starts, *(s.maskgit_steps for _, s in self.settings)),
            float: (float(self.fps), *(s.temperature for _, s in self.settings)),
        }
        for kind, values in kinds.items():
            if any(type(value) is not kind for value in values):
                raise ValueError(f"a field is not of type {kind.__name__}")
        if not self.actions:
            raise ValueError("it has no action")
        if self.engine not in (*get_args(EngineName), IN_BROWSER):
            raise ValueError(f"its engine {self.engine!r} is unknown")
        if len(self.digests) != len(self.actions) + 1:
            raise ValueError(f"{len(self.digests)} digests for {len(self.actions)} actions")
        if not starts or starts[0] != 0 or starts != sorted(set(starts)):
            raise ValueError(f"its settings begin at the actions {starts}, not at 0 and rising")
        if not (0 <= self.seed < 2**63 and 0.1 <= self.fps <= 240):
            raise ValueError(f"seed {self.seed} or fps {self.fps} is out of range")

    def settings_of(self, action: int) -> Settings:
        """Settings under which this action was taken. Args: action: its number, from 0 on."""
        return self.settings[bisect_right(self.settings, action, key=lambda run: run[0]) - 1][1]

    def save(self, path: Path) -> None:
        """Write the file; it appears complete or not at all.

        Raises:
            UserError: if it cannot be written.
        """
        pixels = base64.b64encode(zlib.compress(self.prompt.tobytes(), 9)).decode()
        values = vars(self) | {
            "version": FORMAT_VERSION,
            "prompt": {"shape": self.prompt.shape, "pixels": pixels},
        }
        with writing(path), whole(path) as partial:
            partial.write_text(json.dumps(values) + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a recording.

        Raises:
            UserError: if it is missing, broken, or of another version.
        """
        try:
            values = json.loads(path.read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{path} is no recording ({error}): give a file of --record") from error
        if not isinstance(values, dict) or values.pop("version", None) != FORMAT_VERSION:
            raise UserError(f"{path} is no recording of version {FORMAT_VERSION}: record it again")
        try:
            for name in ("actions", "digests", "settings"):
                if not isinstance(values[name], list):
                    raise ValueError(f"{name} is not a list")
                values[name] = tuple(values[name])
            settings = tuple((start, Settings(*of)) for start, of in values["settings"])
            return cls(**values | {"prompt": _pixels(values["prompt"]), "settings": settings})
        except KeyError as error:
            raise UserError(f"{path} is broken ({error} is missing): record it again") from error
        except TypeError as error:
            why = "its fields are not those of a recording"
            raise UserError(f"{path} is broken ({why}): record it again") from error
        except (ValueError, binascii.Error, zlib.error) as error:
            raise UserError(f"{path} is broken ({error}): record it again") from error


def changes(used: Sequence[Settings]) -> tuple[tuple[int, Settings], ...]:
    """Group the settings of all actions into runs, as in `Recording.settings`."""
    return tuple(
        (number, settings)
        for number, settings in enumerate(used)
        if number == 0 or settings != used[number - 1]
    )


def first_difference(ours: Sequence[str], theirs: Sequence[str]) -> int | None:
    """Number of the first frame whose digest differs; None if all are equal."""
    pairs = enumerate(zip(ours, theirs, strict=True))
    return next((number for number, (one, other) in pairs if one != other), None)


def digest(frame: np.ndarray) -> str:
    """Hash of a frame's pixels, 16 hex digits."""
    return hashlib.sha256(np.ascontiguousarray(frame).data).hexdigest()[:16]


def _pixels(values: dict[str, Any]) -> np.ndarray:
    shape = tuple(int(side) for side in values["shape"])
    size = int(np.prod(shape))
    if len(shape) != 4 or shape[3] != 3 or not 0 < size <= LARGEST_PROMPT:
        raise ValueError(f"its prompt has the invalid shape {shape}")
    inflate = zlib.decompressobj()
    pixels = inflate.decompress(base64.b64decode(values["pixels"], validate=True), size + 1)
    if len(pixels) != size:
        raise ValueError(f"{len(pixels)} bytes for a prompt of shape {shape}")
    return np.frombuffer(pixels, np.uint8).reshape(shape)
