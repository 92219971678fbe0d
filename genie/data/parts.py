"""Parts: the frames that are kept of one source, in files of its own.

In: a source and frame options. Out: KEY.frames (bytes, channels first), KEY.numbers (int32) and,
when both are complete, KEY.json. Several processes may each make another part. Knows no splits.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from genie import video
from genie.data.scenes import SceneRules, is_like, keep
from genie.data.sources import Source
from genie.errors import BrokenOff, UserError
from genie.files import write_whole

WRITTEN_AT_ONCE = 32
MOST_SIDE = 1024


@dataclass(frozen=True, kw_only=True)
class FrameOptions:
    """How frames are taken from videos."""

    size: tuple[int, int] = (64, 64)
    """Height and width in pixels of every frame; each a multiple of the tokenizer's patch."""
    fit: video.Fit = "crop"
    """How frames of another shape are brought to --size: crop cuts off the excess, letterbox adds
    black bars, stretch distorts."""
    fps: float | None = None
    """Frames per second, sampled by the videos' timestamps; without it every frame is taken.
    Of images, each is a frame, whatever is given here."""
    cuts: bool = True
    """End a scene where the picture changes abruptly; clips never cross it."""
    most_still_s: float | None = None
    """Seconds to keep of each standstill: 0 drops every repeated frame; without it all are
    kept."""
    min_frames: int = 16
    """Shorter scenes are dropped."""

    def check(self) -> None:
        """Refuse values out of range.

        Raises:
            UserError: naming the flag.
        """
        if len(self.size) != 2 or min(self.size) < 8:
            raise UserError(f"--size is {self.size}: give height and width, at least 8 pixels each")
        if max(self.size) > MOST_SIDE:
            raise UserError(f"--size is {self.size}: give at most {MOST_SIDE} pixels each")
        if self.fps is not None and not video.MIN_FPS <= self.fps <= video.MAX_FPS:
            raise UserError(f"--fps is {self.fps}: give {video.MIN_FPS} to {video.MAX_FPS:g}")
        if self.most_still_s is not None and not self.most_still_s >= 0:
            raise UserError(f"--most-still-s is {self.most_still_s}: give 0 or more seconds")
        if self.min_frames < 2:
            raise UserError(f"--min-frames is {self.min_frames}: give 2 or more")


@dataclass(kw_only=True)
class Part:
    """The result of decoding one source; stored as JSON beside its frames."""

    key: str
    """Stem of its files' names."""
    label: str
    """The source, for people."""
    name: str = ""
    """The source's name."""
    problem: str = ""
    """Why it cannot be used."""
    damage: str = ""
    """Why only its beginning can be used."""
    fps: float = 0.0
    """Frames per second that the source declares."""
    digest: str = ""
    """Hash of the frames."""
    scenes: list[int] = field(default_factory=list)
    """Frames of each scene that is kept."""
    moves: bool = False
    """Whether any picture differs from the first."""
    num_decoded: int = 0
    """See `Card`, as are the next."""
    num_still: int = 0
    num_short: int = 0
    num_cuts: int = 0

    @property
    def num_frames(self) -> int:
        """Frames kept."""
        return sum(self.scenes)


def make_part(source: Source, options: FrameOptions, folder: Path) -> Part:
    """Decode a source into KEY.frames and KEY.numbers, then write KEY.json.

    The two have temporary names until the whole source is decoded.
    """
    part = Part(key=source.key, label=source.label, name=source.name)
    partial = folder / f".{source.key}.{os.getpid()}"
    try:
        try:
            _decode(source, options, partial, part)
        except UserError as error:
            part.problem = _about(error, source)
        if not part.problem and not part.scenes:
            part.problem = part.damage or (
                f"has no scene of {options.min_frames} frames or more between its cuts and still "
                f"stretches ({part.num_decoded} frames in all)"
            )
        if not part.problem:
            for ending in ("frames", "numbers"):
                os.replace(f"{partial}.{ending}", folder / f"{source.key}.{ending}")
        write_whole(folder / f"{source.key}.json", json.dumps(asdict(part)))
    finally:
        for ending in ("frames", "numbers"):
            Path(f"{partial}.{ending}").unlink(missing_ok=True)
    return part


def _decode(source: Source, options: FrameOptions, partial: Path, part: Part) -> None:
    """Write the frames to keep of a source, and describe them in `part`."""
    part.fps = source.fps()
    still = options.most_still_s
    rules = SceneRules(
        most_still=None if still is None else round(still * (options.fps or part.fps)),
        cut_above=SceneRules.cut_above if options.cuts else float("inf"),
    )
    digest, num_kept = hashlib.sha256(), 0
    writer = _SceneWriter(partial, options.min_frames, digest)
    with writer:
        joints: set[int] = set()
        for kept in keep(_counted(source, options, part, joints), rules, joints):
            if kept.starts_scene and num_kept:
                part.num_cuts += 1
                writer.end(part)
            writer.add(kept.picture, kept.number)
            num_kept += 1
        writer.end(part)
    part.num_still = part.num_decoded - num_kept
    part.digest = digest.hexdigest()[:32]


def _counted(
    source: Source, options: FrameOptions, part: Part, joints: set[int]
) -> Iterator[np.ndarray]:
    """The pictures of a source up to any damage, counted in `part`."""
    try:
        first: np.ndarray | None = None
        for picture in source.pictures(options.size, options.fit, options.fps, joints):
            part.num_decoded += 1
            first = picture if first is None else first
            part.moves = part.moves or not is_like(picture, first)
            yield picture
    except BrokenOff as error:
        part.damage = _about(error, source)


def _about(error: UserError, source: Source) -> str:
    return str(error).removeprefix(f"{source.label} ")


class _SceneWriter:
    """Writes scenes one after the other, each once it is known to be long enough."""

    def __init__(self, partial: Path, min_frames: int, digest: "hashlib._Hash") -> None:
        self._paths = Path(f"{partial}.frames"), Path(f"{partial}.numbers")
        self._min_frames, self._digest = min_frames, digest
        self._waiting: list[np.ndarray] = []  # not yet written, or of a scene that may be too short
        self._numbers: list[int] = []

    def __enter__(self) -> "_SceneWriter":
        self._frames_file, self._numbers_file = (path.open("wb") for path in self._paths)
        return self

    def __exit__(self, *_: object) -> None:
        self._frames_file.close()
        self._numbers_file.close()

    def add(self, picture: np.ndarray, number: int) -> None:
        self._waiting.append(picture)
        self._numbers.append(number)
        if len(self._waiting) >= max(self._min_frames, WRITTEN_AT_ONCE):
            self._write()

    def end(self, part: Part) -> None:
        length = len(self._numbers)
        if length >= self._min_frames:
            self._write()
            self._numbers_file.write(np.array(self._numbers, dtype=np.int32).tobytes())
            part.scenes.append(length)
        else:
            part.num_short += length
        self._waiting, self._numbers = [], []

    def _write(self) -> None:
        if self._waiting:
            rows = np.ascontiguousarray(np.stack(self._waiting).transpose(0, 3, 1, 2))
            self._frames_file.write(rows.data)
            self._digest.update(rows.data)
        self._waiting = []


def read_part(folder: Path, key: str) -> Part | None:
    """A part made before; None if there is none, or if it had a problem (it is then retried)."""
    path = folder / f"{key}.json"
    part = Part(**json.loads(path.read_text())) if path.is_file() else None
    return None if part and part.problem else part
