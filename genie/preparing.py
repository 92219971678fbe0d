"""Preparing: any videos become Arrow shards that training reads at random.

In: sources. Out: a folder with a split each for training and for holding out, and its card. Videos
are decoded side by side by several processes, each into a file of its own; what is there when
everything is killed is not done again. The folder appears whole or not at all, and is the same
whatever happened on the way. Memory does not grow with the data. Knows nothing of models.
"""

import hashlib
import json
import multiprocessing
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from datasets.arrow_writer import ArrowWriter

from genie import video
from genie.checkpoint import write_whole
from genie.data import SPLITS, Card, fixed_lists, shard_name
from genie.errors import UserError
from genie.machine import end_with_parent
from genie.scenes import SceneRules, keep
from genie.sources import Source, count_sources, find_sources, list_sources

PENDING_PER_WORKER = 4
CHUNK_BYTES = 8 * 2**20
WRITTEN_AT_ONCE = 32
SHARD_BYTES = 256 * 2**20


@dataclass(frozen=True, kw_only=True)
class FrameOptions:
    """What the frames depend on, besides their source."""

    size: tuple[int, int]
    """Height and width in pixels."""
    fit: video.Fit = "crop"
    """How pictures of another shape come to that size."""
    fps: float | None = None
    """Frames per second by the videos' clocks; None keeps every frame."""
    cuts: bool = True
    """Whether scenes end at cuts."""
    most_still_s: float | None = None
    """Seconds of standstill that are kept in one piece; None keeps all, 0 drops every double."""
    min_frames: int = 16
    """Shorter scenes are dropped."""

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 8:
            raise UserError(f"--size is {self.size}: give height and width, at least 8 pixels each")
        if self.fps is not None and not video.MIN_FPS <= self.fps <= video.MAX_FPS:
            raise UserError(f"--fps is {self.fps}: give {video.MIN_FPS} to {video.MAX_FPS:g}")
        if self.most_still_s is not None and not self.most_still_s >= 0:
            raise UserError(f"--most-still-s is {self.most_still_s}: give 0 or more seconds")
        if self.min_frames < 2:
            raise UserError(f"--min-frames is {self.min_frames}: give 2 or more")


@dataclass(kw_only=True)
class Part:
    """What came of one source; stored as JSON beside its frames."""

    key: str
    """Names its files."""
    label: str
    """The source, for people."""
    name: str = ""
    """The source's name."""
    problem: str = ""
    """Why it cannot be used."""
    fps: float = 0.0
    """As the source declares."""
    digest: str = ""
    """Hash of the frames."""
    scenes: list[int] = field(default_factory=list)
    """Frames of each scene that is kept."""
    num_decoded: int = 0
    """See `Card`, as are the next."""
    num_still: int = 0
    num_short: int = 0
    num_cuts: int = 0

    @property
    def num_frames(self) -> int:
        """Frames kept."""
        return sum(self.scenes)


@dataclass(frozen=True)
class Piece:
    """Rows of a part that go to one split under one name."""

    part: Part
    name: str
    start: int
    stop: int

    @property
    def scenes(self) -> list[int]:
        """Frames of each scene, or of what of it is in here."""
        edges = np.cumsum([0, *self.part.scenes]).clip(self.start, self.stop)
        return [int(b - a) for a, b in pairwise(edges) if b > a]


def prepare(
    places: Sequence[str | Path],
    out: Path,
    options: FrameOptions,
    *,
    heldout_share: float = 0.1,
    workers: int | None = None,
    progress: Callable[[Iterable[Part], int | None], Iterable[Part]] = lambda parts, _: parts,
) -> Card:
    """Turn videos into `out`/train, `out`/heldout, `out`/card.json and `out`/README.md.

    A video below a folder called heldout (or train) goes to that split; of the others a share,
    chosen by a hash of the name, is held out, and always at least one. Of a video that is alone
    the last part is held out. Broken videos are skipped and named in the card.

    Args:
        places: files, folders or datasets, see `sources`.
        out: the folder to make; must not exist.
        options: what the frames depend on.
        heldout_share: between 0 and 1, for videos whose folder does not tell.
        workers: processes; 1 decodes in this one; default: one a core.
        progress: wraps the parts as they come and how many there will be, to show a bar.

    Raises:
        UserError: if a split gets no usable video, a number is out of range, or `out` exists or
            cannot be written.
    """
    places = [str(place) for place in places]
    if not 0 < heldout_share < 1:
        raise UserError(f"--heldout-share is {heldout_share}: give a share such as 0.1, below 1")
    if out.exists():
        raise UserError(f"{out} exists already: remove it or choose another --out")
    source = describe_source(places, options, heldout_share)
    total = _check_places(places)
    try:
        work = _open_work(out, options)
        parts = list(progress(_decode_all(places, work, options, workers, total), total))
        pieces = _split(parts, heldout_share, options.min_frames)
        card = _describe(parts, pieces, options, source)
        for split in SPLITS:
            _write_split(split, pieces[split], work, card)
        _write_card(card, work)
        shutil.rmtree(work / "parts")
        os.replace(work, out)
    except OSError as error:
        raise UserError(
            f"cannot write {out}: {error.strerror or error}; repeat the command to go on"
        ) from error
    return card


def describe_source(
    places: Sequence[str | Path], options: FrameOptions, heldout_share: float
) -> dict[str, Any]:
    """What a folder prepared now would be made from; decodes nothing.

    Returns:
        `places` (absolute), every option, and `listing`, a hash of the videos' names and numbers
        of bytes. JSON keeps it as it is.

    Raises:
        UserError: if a place is missing or holds no videos.
    """
    places = [str(place) for place in places]
    absolute = [str(Path(p).resolve()) if Path(p).exists() else p for p in places]
    chosen = json.loads(json.dumps(asdict(options)))
    shares = {"heldout_share": heldout_share}
    return {"places": absolute} | chosen | shares | {"listing": list_sources(places)}


# Decoding


def _decode_all(
    places: Sequence[str],
    work: Path,
    options: FrameOptions,
    workers: int | None,
    total: int | None,
) -> Iterator[Part]:
    """A part for every source, in order; those that are on disk already are not made again."""
    workers = min(workers or os.cpu_count() or 1, total or 10**9)
    folder = work / "parts"
    with _executor(workers) as executor:
        pending: deque[Future[Part] | Part] = deque()
        for source in find_sources(places):
            done = _read_part(folder, source.key)
            if done is None and executor is None:
                done = make_part(source, options, folder)
            pending.append(done or executor.submit(make_part, source, options, folder))
            while len(pending) > workers * PENDING_PER_WORKER or (executor is None and pending):
                yield _wait_for(pending.popleft())
        while pending:
            yield _wait_for(pending.popleft())


def _wait_for(part: "Future[Part] | Part") -> Part:
    return part.result() if isinstance(part, Future) else part


@contextmanager
def _executor(workers: int) -> Iterator[Executor | None]:
    """Processes that start quickly and end when this one is killed; None for one worker."""
    if workers == 1:
        yield None
        return
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    context.set_forkserver_preload(["genie.preparing"])
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def make_part(source: Source, options: FrameOptions, folder: Path) -> Part:
    """Decode a source into KEY.frames and KEY.numbers, then write KEY.json.

    The frames of a scene are known to be enough only at its end, so they wait on disk.
    """
    part = Part(key=source.key, label=source.label, name=source.name)
    partial = folder / f".{source.key}.{os.getpid()}"
    try:
        try:
            _decode(source, options, partial, part)
        except UserError as error:
            part.problem = str(error).removeprefix(f"{source.label} ")
        if not part.problem and not part.scenes:
            part.problem = (
                f"has no scene of {options.min_frames} frames or more "
                f"({part.num_decoded} frames in all)"
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
    """Write what is kept of a source, and into `part` what it is."""
    part.fps = source.fps()
    still = options.most_still_s
    rules = SceneRules(
        most_still=None if still is None else round(still * (options.fps or part.fps)),
        cut_above=SceneRules.cut_above if options.cuts else float("inf"),
    )
    digest, num_kept = hashlib.sha256(), 0
    scene = _Scene(partial, options.min_frames, digest)
    with scene:
        for kept in keep(_counted(source, options, part), rules):
            if kept.starts_scene and num_kept:
                part.num_cuts += 1
                scene.end(part)
            scene.add(kept.picture, kept.number)
            num_kept += 1
        scene.end(part)
    part.num_still = part.num_decoded - num_kept
    part.digest = digest.hexdigest()[:32]


def _counted(source: Source, options: FrameOptions, part: Part) -> Iterator[np.ndarray]:
    for picture in source.pictures(options.size, options.fit, options.fps):
        part.num_decoded += 1
        yield picture


class _Scene:
    """Writes scenes one after the other; one that turns out too short is taken back."""

    def __init__(self, partial: Path, min_frames: int, digest: "hashlib._Hash") -> None:
        self._paths = Path(f"{partial}.frames"), Path(f"{partial}.numbers")
        self._min_frames, self._digest = min_frames, digest
        self._waiting: list[np.ndarray] = []  # not yet written, or of a scene that may be too short
        self._numbers: list[int] = []

    def __enter__(self) -> "_Scene":
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
            self._frames_file.write(rows)
            self._digest.update(rows)
        self._waiting = []


# What is on disk


def _open_work(out: Path, options: FrameOptions) -> Path:
    """The folder that `out` grows in; what other options left there is removed."""
    work = out.with_name(f".{out.name}.partial")
    made_with = json.dumps(asdict(options))
    note = work / "options.json"
    if not (note.is_file() and note.read_text() == made_with):
        shutil.rmtree(work, ignore_errors=True)
    try:
        (work / "parts").mkdir(parents=True, exist_ok=True)
        write_whole(note, made_with)
        for split in SPLITS:
            shutil.rmtree(work / split, ignore_errors=True)
    except OSError as error:
        raise UserError(f"cannot make {out}: {error.strerror or error}") from error
    return work


def _read_part(folder: Path, key: str) -> Part | None:
    path = folder / f"{key}.json"
    return Part(**json.loads(path.read_text())) if path.is_file() else None


def _write_split(split: str, pieces: Sequence[Piece], work: Path, card: Card) -> None:
    """A data set that `datasets.load_from_disk` opens, in shards of about `SHARD_BYTES`."""
    folder = work / split
    folder.mkdir()
    length = 3 * card.height * card.width
    features = datasets.Features(
        {
            "frame": datasets.List(datasets.Value("uint8"), length=length),
            "number": datasets.Value("int32"),
        }
    )
    shards = list(_group(pieces, max(1, SHARD_BYTES // length)))
    names = [shard_name(number, len(shards)) for number in range(len(shards))]
    card.shards[split] = [sum(piece.stop - piece.start for piece in shard) for shard in shards]
    for name, shard in zip(names, shards, strict=True):
        with ArrowWriter(path=str(folder / name), features=features) as writer:
            for piece in shard:
                for frames, numbers in _read_rows(piece, work, length):
                    table = {"frame": fixed_lists(frames), "number": pa.array(numbers)}
                    writer.write_table(pa.table(table))
            writer.finalize()
    datasets.DatasetInfo(features=features).write_to_directory(str(folder))
    state = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": card.fingerprint,
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    write_whole(folder / "state.json", json.dumps(state, indent=1))


def _group(pieces: Sequence[Piece], most_rows: int) -> Iterator[list[Piece]]:
    """Pieces in the rows of one shard each, a long piece cut where a shard is full."""
    shard: list[Piece] = []
    room = most_rows
    for piece in pieces:
        start = piece.start
        while start < piece.stop:
            stop = min(piece.stop, start + room)
            shard.append(replace(piece, start=start, stop=stop))
            room, start = room - (stop - start), stop
            if room == 0:
                yield shard
                shard, room = [], most_rows
    if shard:
        yield shard


def _read_rows(piece: Piece, work: Path, length: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Frames and numbers of a piece, some megabytes at a time."""
    step = max(1, CHUNK_BYTES // length)
    folder = work / "parts"
    for start in range(piece.start, piece.stop, step):
        count = min(step, piece.stop - start)
        frames = np.fromfile(
            folder / f"{piece.part.key}.frames", np.uint8, count * length, offset=start * length
        )
        numbers = np.fromfile(
            folder / f"{piece.part.key}.numbers", np.int32, count, offset=4 * start
        )
        yield frames.reshape(count, length), numbers


# Splits


def _check_places(places: Sequence[str]) -> int | None:
    """How many sources there are; refuses early what can never give both splits."""
    total = count_sources(places)
    if total is not None:
        told = {_split_of_folder(source.name) for source in find_sources(places)}
        for split in SPLITS:
            if told and told <= set(SPLITS) - {split}:
                raise _no_video_for(split)
    return total


def _split(parts: Sequence[Part], heldout_share: float, min_frames: int) -> dict[str, list[Piece]]:
    """The pieces of each split; both get some."""
    usable = [part for part in parts if not part.problem]
    if not usable:
        first = next((f"{p.label} {p.problem}" for p in parts), "there are none")
        raise UserError(f"none of the videos can be used; the first: {first}")
    splits = {part.key: _split_of(part.name, heldout_share) for part in usable}
    drawn = [part for part in usable if not _split_of_folder(part.name)]
    drawn.sort(key=lambda part: _draw(part.name))
    for split, candidates in (("heldout", drawn), ("train", drawn[::-1])):
        if split not in splits.values() and candidates:
            splits[candidates[0].key] = split
    missing = [split for split in SPLITS if split not in splits.values()]
    if missing and not drawn:
        bad = next((f"{p.label} {p.problem}" for p in parts if p.problem), None)
        raise _no_video_for(missing[0], *([bad] if bad else []))
    pieces = {split: [] for split in SPLITS}
    for part in usable:
        pieces[splits[part.key]].append(Piece(part, part.name, 0, part.num_frames))
    if missing:  # one video alone, or one that no folder claims beside others of one split
        (alone,) = [part for part in drawn if splits[part.key] not in missing][:1]
        halves = _halves(alone, heldout_share, min_frames)
        for split in SPLITS:
            pieces[split] = [p for p in pieces[split] if p.part is not alone] + [halves[split]]
    return pieces


def _halves(part: Part, heldout_share: float, min_frames: int) -> dict[str, Piece]:
    """The two parts of a video that is alone."""
    count = part.num_frames
    if count < 2 * min_frames:
        raise UserError(
            f"{part.label} is the only video and has {count} frames: add a second one, or give one "
            f"of at least {2 * min_frames} frames, of which the last are held out"
        )
    num_heldout = max(round(heldout_share * count), min_frames)
    cut = max(count - num_heldout, min_frames)
    return {
        "train": Piece(part, part.name, 0, cut),
        "heldout": Piece(part, f"{part.name}-end", cut, count),
    }


def _split_of(name: str, heldout_share: float) -> str:
    return _split_of_folder(name) or ("heldout" if _draw(name) < heldout_share else "train")


def _split_of_folder(name: str) -> str | None:
    folders = name.split("/")[:-1]
    return next((split for split in SPLITS if split in folders), None)


def _draw(name: str) -> float:
    """A number in 0..1 that depends on the name only."""
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:4]) / 2**32


def _no_video_for(split: str, reason: str = "all are for the other") -> UserError:
    return UserError(
        f"there is no video for the {split} split ({reason}): add videos, or put some into a "
        f"folder called {split}"
    )


# The card


def _describe(
    parts: Sequence[Part],
    pieces: dict[str, list[Piece]],
    options: FrameOptions,
    source: dict[str, Any],
) -> Card:
    usable = [part for part in parts if not part.problem]
    digest = hashlib.sha256()
    for split in SPLITS:
        for piece in pieces[split]:
            told = f"{split} {piece.name} {piece.start} {piece.stop} {piece.scenes} "
            digest.update(os.fsencode(told + piece.part.digest))
    return Card(
        height=options.size[0],
        width=options.size[1],
        fps=options.fps or usable[0].fps,
        fingerprint=digest.hexdigest()[:16],
        videos={split: {p.name: p.scenes for p in pieces[split]} for split in SPLITS},
        skipped={part.label: part.problem for part in parts if part.problem},
        num_decoded=sum(part.num_decoded for part in usable),
        num_still=sum(part.num_still for part in usable),
        num_short=sum(part.num_short for part in usable),
        num_cuts=sum(part.num_cuts for part in usable),
        source=source,
    )


def _write_card(card: Card, folder: Path) -> None:
    write_whole(folder / "card.json", json.dumps(asdict(card), indent=1))
    splits = "\n".join(
        f"| {split} | {len(card.videos[split])} | {sum(map(len, card.videos[split].values()))} | "
        f"{card.num_frames(split)} | {card.num_hours(split):.2f} |"
        for split in SPLITS
    )
    skipped = "\n".join(f"- {label}: {reason}" for label, reason in card.skipped.items())
    text = f"""---
pretty_name: frames of {len(card.videos["train"]) + len(card.videos["heldout"])} videos
task_categories: [video-classification]
---

# Prepared videos

{card.height}×{card.width} pixels, {card.fps:g} frames per second, fingerprint {card.fingerprint}.

| split | videos | scenes | frames | hours |
|---|---|---|---|---|
{splits}

{card.num_decoded} frames were looked at; {card.num_cuts} cuts were found; {card.num_still} frames
were dropped because nothing had changed for long, {card.num_short} in scenes too short.

Each split is a data set of the library `datasets` (`datasets.load_from_disk`), one row a frame:
`frame` is 3×{card.height}×{card.width} bytes, channels first, and `number` is which frame of its
video it is. card.json lists videos, scenes and sources.

{len(card.skipped)} videos were left out.
{skipped}
"""
    # A name that is no text is shown with question marks.
    (folder / "README.md").write_bytes(text.encode(errors="replace"))
