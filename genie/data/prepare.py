"""Preparing: any videos become Arrow shards that training reads at random.

In: sources. Out: a folder with a training split, a held-out split and a card. Several processes
decode videos, each into files of its own; those that are complete survive a kill and are not made
again. The folder appears complete or not at all, and is the same after any interruptions. Memory
does not grow with the data. Knows nothing of models.
"""

import json
import multiprocessing
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from genie.data.card import SPLITS, Card
from genie.data.parts import FrameOptions, Part, make_part, read_part
from genie.data.shards import ShardWriter, StoredVideo, list_videos, seal, write_card
from genie.data.sources import find_sources, list_sources, name_sources
from genie.data.splits import Piece, choose_splits, no_video_for, split_of_folder
from genie.errors import UserError
from genie.files import write_whole
from genie.orphans import end_with

HELDOUT_SHARE = 0.1
PENDING_PER_WORKER = 4
DECODER = 2  # version of how frames are made; increase it whenever that changes their values
CHUNK_BYTES = 8 * 2**20


def prepare(
    places: Sequence[str | Path],
    out: Path,
    options: FrameOptions,
    *,
    heldout_share: float = HELDOUT_SHARE,
    workers: int | None = None,
    progress: Callable[[Iterable[Part], int | None], Iterable[Part]] = lambda parts, _: parts,
) -> Card:
    """Turn videos into `out`/train, `out`/heldout, `out`/card.json and `out`/README.md.

    A video below a folder called heldout (or train) goes to that split; of the others a share,
    chosen by a hash of the name, is held out, and always at least one. If there is one video only,
    its end is held out. Of a damaged video, the frames before the damage are kept. The card names
    damaged and skipped videos.

    Args:
        places: files, folders or datasets, see `sources`.
        out: the folder to make; must not exist.
        options: what the frames depend on.
        heldout_share: between 0 and 1, of the videos that no folder puts into a split.
        workers: number of processes; 1 decodes in this one; default: one per core.
        progress: wraps the iterator of parts, to show a bar; is given their number, if known.

    Raises:
        UserError: if a split gets no usable video, a number is out of range, or `out` exists or
            cannot be written.
    """
    places = [str(place) for place in places]
    if not places:
        raise UserError("no source is named: give a folder with videos, or single files")
    if workers is not None and workers < 1:
        raise UserError(f"--workers is {workers}: give 1 or more")
    if not 0 < heldout_share < 1:
        raise UserError(f"--heldout-share is {heldout_share}: give a share such as 0.1, below 1")
    if out.exists():
        raise UserError(f"{out} exists already: remove it or choose another --out")
    source = describe_source(places, options, heldout_share)
    total = _check_places(places)
    with _locked(out):
        work = _open_work(out, options)
        try:
            parts = list(progress(_decode_all(places, work, options, workers, total), total))
            pieces = choose_splits(parts, heldout_share, options.min_frames)
            card = _describe(parts, pieces, options, source)
            for split in SPLITS:
                _write_split(split, pieces[split], work, card)
            write_card(card, work)
            shutil.rmtree(work / "parts")
            (work / "options.json").unlink()
            os.replace(work, out)
        except OSError as error:
            raise UserError(
                f"cannot write {out}: {error.strerror or error}; repeat the command to go on"
            ) from error
        except UserError:
            if not any((work / "parts").iterdir()):  # no part to continue from
                shutil.rmtree(work)
            raise
    return card


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Meanwhile, no other process makes the same folder."""
    lock = FileLock(out.with_name(f".{out.name}.lock"), timeout=0)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise UserError(f"{out} is being prepared by another process: wait for it") from None
    except OSError as error:
        raise UserError(f"cannot make {out}: {error.strerror or error}") from error
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def describe_source(
    places: Sequence[str | Path], options: FrameOptions, heldout_share: float
) -> dict[str, Any]:
    """What a folder prepared now would be made from; decodes nothing.

    Returns:
        `places` (absolute), every option, and `listing`, a hash of the videos' names and sizes.
        The same after a round trip through JSON.

    Raises:
        UserError: if a place is missing or holds no videos, or an option is out of range.
    """
    options.check()
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
    """A part for every source, in order; those already on disk are not made again."""
    workers = min(workers or os.cpu_count() or 1, total or 10**9)
    folder = work / "parts"
    with _executor(workers) as executor:
        pending: deque[Future[Part] | Part] = deque()
        for source in find_sources(places):
            part: Future[Part] | Part | None = read_part(folder, source.key)
            if part is None and executor:
                part = executor.submit(make_part, source, options, folder)
            pending.append(part or make_part(source, options, folder))
            while len(pending) > workers * PENDING_PER_WORKER or (executor is None and pending):
                yield _wait_for(pending.popleft())
        while pending:
            yield _wait_for(pending.popleft())


def _wait_for(part: "Future[Part] | Part") -> Part:
    try:
        return part.result() if isinstance(part, Future) else part
    except BrokenProcessPool as error:
        raise UserError(
            "a process that decoded videos was killed, perhaps for want of memory: repeat the "
            "command to go on, with fewer --workers"
        ) from error


@contextmanager
def _executor(workers: int) -> Iterator[Executor | None]:
    """Processes that start quickly and end when this one is killed; None for one worker."""
    if workers == 1:
        yield None
        return
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    context.set_forkserver_preload(["genie.data.prepare"])
    theirs, ours = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, context, partial(end_with, theirs))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        theirs.close(), ours.close()


# What is on disk


def _open_work(out: Path, options: FrameOptions) -> Path:
    """The temporary folder for `out`, emptied if it was made with other options."""
    work = out.with_name(f".{out.name}.partial")
    made_with = json.dumps({"decoder": DECODER} | asdict(options))
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


def _write_split(split: str, pieces: Sequence[Piece], work: Path, card: Card) -> None:
    folder = work / split
    folder.mkdir()
    writer = ShardWriter(folder, (card.height, card.width))
    for piece in pieces:
        for frames, numbers in _read_rows(piece, work, 3 * card.height * card.width):
            writer.write(frames, numbers)
    writer.finish()
    seal(folder, writer.shards, split, card)


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


def _check_places(places: Sequence[str]) -> int | None:
    """The number of sources, if known; refuses early those that can never give both splits."""
    names = name_sources(places)
    if names is None:
        return None
    claimed = {split_of_folder(name) for name in names}
    for split in SPLITS:
        if claimed <= set(SPLITS) - {split}:
            raise no_video_for(split)
    return len(names)


# The card


def _describe(
    parts: Sequence[Part],
    pieces: dict[str, list[Piece]],
    options: FrameOptions,
    source: dict[str, Any],
) -> Card:
    usable = [part for part in parts if not part.problem]
    stored = {
        split: [StoredVideo(p.name, p.scenes, p.part.digest, p.start) for p in pieces[split]]
        for split in SPLITS
    }
    return Card(
        height=options.size[0],
        width=options.size[1],
        fps=options.fps or usable[0].fps,
        **list_videos(stored),
        skipped={part.label: part.problem for part in parts if part.problem},
        standing=tuple(part.label for part in usable if not part.moves),
        damaged={part.label: part.damage for part in usable if part.damage},
        num_decoded=sum(part.num_decoded for part in usable),
        num_still=sum(part.num_still for part in usable),
        num_short=sum(part.num_short for part in usable),
        num_cuts=sum(part.num_cuts for part in usable),
        source=source,
    )
