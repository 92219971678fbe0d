"""Where videos come from: files, folders of them, image sequences, Hugging Face datasets.

In: paths and names of datasets. Out: one `Source` per video, in an order that is always the same,
and its pictures. Does not choose which to keep; `rows.py` reads the rows of datasets.
"""

import hashlib
import os
import re
import tempfile
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from genie import video
from genie.data.rows import HUB_PREFIX, episode_borders, is_dataset, read_rows, split_place
from genie.decoding import VIDEO_SUFFIXES, is_film
from genie.errors import UserError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})


@dataclass(frozen=True, kw_only=True)
class Source:
    """One video: a file, a sequence of images, or the content of a dataset's rows."""

    name: str
    """Path below the place that was named, without ending; decides the split."""
    label: str
    """Its name in messages."""
    stamp: str
    """Changes when the content does."""
    paths: tuple[Path, ...] = ()
    """One video file, or several images."""
    contents: tuple[bytes, ...] = ()
    """The same, but bytes in memory, from a dataset."""
    is_video: bool = True
    """Whether it is a video file; else it is images."""
    borders_s: tuple[float, ...] = ()
    """Seconds at which one episode ends and the next begins."""

    @property
    def key(self) -> str:
        """A stem for file names, different for every source and content."""
        times = [path.stat().st_mtime_ns for path in self.paths if path.exists()]
        text = f"{self.name}\0{self.label}\0{self.stamp}\0{times}"
        return hashlib.sha256(os.fsencode(text)).hexdigest()[:20]

    def pictures(
        self, size: video.Size, fit: video.Fit, fps: float | None, joints: set[int] | None = None
    ) -> Iterator[np.ndarray]:
        """Pictures as uint8 (h, w, 3).

        Args:
            joints: see `video.stream`.

        Raises:
            UserError: if the source is broken.
        """
        if self.borders_s and joints is not None:
            rate = fps or self.fps()
            joints |= {round(border * rate) for border in self.borders_s}
        how = {"fit": fit, "fps": fps, "joints": joints}
        if not self.is_video:
            yield from self._images(size, fit)
        elif self.paths:
            yield from video.stream(self.paths[0], size, **how)
        else:
            with self._as_file() as path:
                try:
                    yield from video.stream(path, size, **how)
                except UserError as error:
                    raise type(error)(str(error).replace(str(path), self.label)) from error

    def fps(self) -> float:
        """Frames per second that a video declares; for images the default."""
        if not self.is_video:
            return video.DEFAULT_FPS
        if self.paths:
            return video.read_fps(self.paths[0])
        with self._as_file() as path:
            return video.read_fps(path)

    @contextmanager
    def _as_file(self) -> Iterator[Path]:
        content = self.contents[0]
        moving = {b"RIFF": ".webp", b"\x89PNG": ".png", b"GIF8": ".gif"}
        suffix = moving.get(content[:4], ".video")
        with tempfile.NamedTemporaryFile(suffix=suffix) as file:
            Path(file.name).write_bytes(content)
            yield Path(file.name)

    def _images(self, size: video.Size, fit: video.Fit) -> Iterator[np.ndarray]:
        for path in self.paths:
            yield video.read_image(path, size, fit)
        for content in self.contents:
            yield video.decode_image(content, size, fit)


def find_sources(places: Sequence[str]) -> Iterator[Source]:
    """All videos of several places, each with a name of its own; datasets are read as a stream.

    Raises:
        UserError: if a place is missing or holds nothing.
    """
    names: set[str] = set()
    for source in (found for place in places for found in _find(place)):
        name = source.name
        if name in names and len(source.paths) == 1:
            name += source.paths[0].suffix  # clip.mp4 beside clip.mkv: two videos, two names
        while name in names:
            name += "~"
        names.add(name)
        yield replace(source, name=name)


def name_sources(places: Sequence[str]) -> list[str] | None:
    """The names of all videos; None if a dataset had to be read for them."""
    if any(is_dataset(place) for place in places):
        return None
    return [source.name for source in find_sources(places)]


def list_sources(places: Sequence[str]) -> str:
    """A hash of names and sizes, 16 hex digits; reads no contents."""
    listing = hashlib.sha256()
    for place in places:
        if place.startswith(HUB_PREFIX):
            listing.update(place.encode())
        elif is_dataset(place):
            folder, choice = split_place(place)
            files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
            listing.update(f"{_stamps(files)}{sorted(choice.items()) or ''}".encode())
        else:
            for source in _find(place):
                listing.update(os.fsencode(f"{source.name}\0{source.stamp}\n"))
    return listing.hexdigest()[:16]


def _find(place: str) -> Iterator[Source]:
    if not place:
        raise UserError("a source is empty: name a video or a folder")
    path = Path(place)
    if is_dataset(place):
        return _from_rows(place)
    if path.is_file():
        return iter([_from_file(path, path.parent)])
    if not path.is_dir():
        raise UserError(
            f"no file or folder {place}: name a video, a folder with videos or pictures, or a "
            f"dataset of the Hugging Face hub as {HUB_PREFIX}owner/name"
        )
    return _from_folder(path)


def _from_folder(folder: Path) -> Iterator[Source]:
    videos: list[Path] = []
    sequences: dict[Path, list[Path]] = {}
    for path in _files_below(folder):
        if is_film(path):
            videos.append(path)
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            sequences.setdefault(path.parent, []).append(path)
    if not videos and not sequences:
        raise UserError(
            f"{folder} holds no videos: put videos (mp4, mkv, webm, ...) or numbered pictures "
            f"(png, jpg, ...) there{_in_brackets(left_alone([str(folder)]))}"
        )
    yield from (_from_file(path, folder) for path in videos)
    for parent, images in sorted(sequences.items()):
        images.sort(key=lambda image: _natural(image.name))
        name = parent.relative_to(folder).as_posix()
        yield Source(
            name=folder.resolve().name if name == "." else name,
            label=f"{parent} ({len(images)} pictures)",
            stamp=_stamps(images),
            paths=tuple(images),
            is_video=False,
        )


def _files_below(folder: Path, refused: list[str] | None = None) -> list[Path]:
    """All files, also in linked folders; each folder once, however many links lead to it.

    Args:
        refused: receives the folders that cannot be read, and why.
    """

    def note(error: OSError) -> None:
        if refused is not None:
            refused.append(f"{error.filename} ({error.strerror})")

    files: list[Path] = []
    seen: set[Path] = set()
    tops = deque([folder])
    while tops:  # links last: a folder's own path comes before a link to it
        for place, folders, names in os.walk(tops.popleft(), onerror=note):
            parent = Path(place)
            if parent.resolve() in seen:
                folders.clear()
                continue
            seen.add(parent.resolve())
            tops += [parent / name for name in sorted(folders) if (parent / name).is_symlink()]
            files += [parent / name for name in names]
    return sorted(files)


def left_alone(places: Sequence[str]) -> list[str]:
    """What is ignored in folders: a line per ending, and per folder that cannot be read."""
    counts: Counter[str] = Counter()
    refused: list[str] = []
    for place in filter(os.path.isdir, places):
        has_rows = is_dataset(place)
        for path in _files_below(Path(place), refused):
            ending = path.suffix.lower()
            if has_rows and ending in VIDEO_SUFFIXES:
                counts[f"{ending} beside rows of a dataset, unless those name them"] += 1
            elif not has_rows and ending not in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
                counts[" ".join((ending or path.name).split())] += 1
    return [f"{count} {what}" for what, count in sorted(counts.items())] + refused


def _in_brackets(found: list[str]) -> str:
    return f" (it holds {', '.join(found)})" if found else ""


def _from_file(path: Path, below: Path) -> Source:
    name = path.relative_to(below).with_suffix("").as_posix()
    return Source(
        name=name,
        label=str(path),
        stamp=_stamps([path]),
        paths=(path,),
        borders_s=episode_borders(path),
    )


def _from_rows(place: str) -> Iterator[Source]:
    for row in read_rows(place):
        stamp = hashlib.sha256(b"".join(row.contents)).hexdigest()[:16]
        yield Source(
            name=f"{row.folder}{row.split}-{row.name}",
            label=f"{place} {row.split} {row.name}",
            stamp=stamp,
            contents=row.contents,
            is_video=row.is_video,
        )


def _natural(name: str) -> list[tuple[int, str]]:
    """A sorting key that puts frame-2 before frame-10."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)
    ]


def _stamps(paths: Sequence[Path]) -> str:
    """Hash of names and sizes; the size is -1 if a file cannot be accessed."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            size = path.stat().st_size
        except OSError:
            size = -1
        digest.update(os.fsencode(f"{path.name}\0{size}\n"))
    return digest.hexdigest()[:16]
