"""Clips: a folder of videos becomes Arrow shards, and shards become windows of frames or tokens.

In: video files. Out: `frames` (stored, uint8) in windows that never cross a video's end, and
windows of `tokens` with `actions`. Knows nothing of models or losses.
"""

import hashlib
import json
import os
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from datasets.arrow_writer import ArrowWriter
from jaxtyping import Int, UInt8
from torch import Tensor

from genie import video
from genie.checkpoint import config_from_dict
from genie.errors import UserError

SPLITS = ("train", "heldout")
BOTH = "both"
FORMAT_VERSION = 1
IN_MEMORY_SHARE = 0.15
READ_AHEAD = 8
CHUNK_BYTES = 16 * 2**20


@dataclass(kw_only=True)
class Card:
    """What a prepared folder holds; stored beside it as card.json."""

    version: int = FORMAT_VERSION
    """Format of the folder."""
    height: int
    """Pixels."""
    width: int
    """Pixels."""
    fps: float
    """Frames per second of the first video."""
    fingerprint: str = ""
    """Hash of all frames, names and splits, in order; ties tokens to their frames."""
    videos: dict[str, dict[str, int]] = field(default_factory=dict)
    """Per split: each video's name and number of frames, in the order of the rows."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Videos left out, each with its reason."""
    source: dict[str, Any] = field(default_factory=dict)
    """What the folder was made from, as `describe_source` tells it; empty in old folders."""


def prepare(
    source: Path,
    out: Path,
    *,
    size: tuple[int, int],
    heldout_share: float = 0.1,
    min_frames: int = 16,
    progress: Callable[[list[Path]], Iterable[Path]] = iter,
) -> Card:
    """Turn a folder of videos into `out`/train, `out`/heldout and `out`/card.json.

    A video below a folder called heldout (or train) goes to that split; of the others a share,
    chosen by a hash of the name, is held out, and always at least one. Of a video that is alone
    the last part is held out. Broken videos are skipped and named in the card. The folder appears
    whole or not at all.

    Args:
        source: folder tree with videos.
        out: the folder to make; must not exist.
        size: (height, width) in pixels that all frames are cropped and resized to.
        heldout_share: between 0 and 1, for videos whose folder does not tell.
        min_frames: shorter videos are skipped.
        progress: wraps the list of paths, to show a bar.

    Raises:
        UserError: if a split gets no usable video, a number is out of range, or `out` exists or
            cannot be written.
    """
    if len(size) != 2 or min(size) < 1:
        raise UserError(f"--size is {size}: give height and width in pixels, such as 64 64")
    if not 0 < heldout_share < 1:
        raise UserError(f"--heldout-share is {heldout_share}: give a share such as 0.1, below 1")
    card = Card(
        height=size[0],
        width=size[1],
        fps=0.0,
        videos={split: {} for split in SPLITS},
        source=describe_source(source, size),
    )
    partial = _fresh_folder(out)
    try:
        splits = _choose_splits(source, heldout_share, min_frames)
        _write_frames(card, source, splits, partial, heldout_share, min_frames, progress)
        (partial / "card.json").write_text(json.dumps(asdict(card), indent=1))
        os.replace(partial, out)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return card


def find_videos(source: Path) -> list[Path]:
    """All video files below `source`, sorted.

    Raises:
        UserError: if the folder is missing or holds none.
    """
    if not source.is_dir():
        raise UserError(f"no folder {source}: name a folder with videos")
    found = source.rglob("*")
    paths = sorted(p for p in found if p.suffix.lower() in video.VIDEO_SUFFIXES and not p.is_dir())
    if not paths:
        raise UserError(
            f"{source} holds no videos: put files ending in "
            f"{', '.join(sorted(video.VIDEO_SUFFIXES))} there"
        )
    return paths


def describe_source(source: Path, size: tuple[int, int]) -> dict[str, Any]:
    """What a folder prepared from `source` now would be made from; decodes nothing.

    Returns:
        `path` (absolute), `size` (height, width) and `listing`, a hash of the videos' names and
        numbers of bytes. JSON keeps it as it is.

    Raises:
        UserError: if the folder is missing or holds no videos.
    """
    listing = hashlib.sha256()
    for path in find_videos(source):
        listing.update(os.fsencode(f"{path.relative_to(source)}\0{_num_bytes(path)}\n"))
    return {
        "path": str(source.resolve()),
        "size": list(size),
        "listing": listing.hexdigest()[:16],
    }


def is_prepared(folder: Path) -> bool:
    """Whether `folder` is one that `prepare` made."""
    return (folder / "card.json").is_file()


def read_card(folder: Path) -> Card:
    """The card of a prepared folder.

    Raises:
        UserError: if the folder was not made by `prepare`, or by another version.
    """
    if not is_prepared(folder):
        raise UserError(f"{folder} is not a prepared folder: run python -m train.prepare first")
    path = folder / "card.json"
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}): prepare the data again") from error
    version = values.get("version") if isinstance(values, dict) else None
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path} has data format {version}, this program reads {FORMAT_VERSION}: "
            "run python -m train.prepare again"
        )
    return config_from_dict(Card, {"source": {}} | values, where=str(path))


class FrameStore:
    """Memory-mapped frames of one split, one row a frame."""

    def __init__(self, table: "_Table", card: Card, split: str) -> None:
        """Use `open`."""
        self._table = table
        self.size = (card.height, card.width)
        self.fps = card.fps or video.DEFAULT_FPS
        self.fingerprint = card.fingerprint
        self.video_names = list(card.videos[split])
        self.video_starts = _starts(card.videos[split].values())

    @classmethod
    def open(cls, folder: Path, split: str) -> "FrameStore":
        """Open one split ("train" or "heldout") of a prepared folder.

        Raises:
            UserError: if the folder is not a prepared one.
        """
        card = read_card(folder)
        num_rows = sum(card.videos[split].values())
        # Random reads of a cold file on a slow disk starve training; what fits stays in memory.
        in_memory = num_rows * 3 * card.height * card.width < _total_memory() * IN_MEMORY_SHARE
        rows = datasets.load_from_disk(str(folder / split), keep_in_memory=in_memory)
        return cls(_Table(rows.data), card, split)

    def __len__(self) -> int:
        """Number of frames."""
        return int(self.video_starts[-1])

    def read(self, start: int, stop: int) -> UInt8[Tensor, "t 3 h w"]:
        """Frames of rows start..stop-1."""
        rows = self._table.read("frame", start, stop)
        return torch.from_numpy(rows.reshape(stop - start, 3, *self.size))


class TokenStore:
    """Tokens and actions of one split, row for row beside a `FrameStore`, held in memory."""

    def __init__(
        self,
        tokens: Int[Tensor, "rows n"],
        actions: Int[Tensor, " rows"],
        video_starts: np.ndarray,
    ) -> None:
        """Args: actions: action of row i leads to row i+1; what it is at a video's end is void."""
        self.tokens, self.actions, self.video_starts = tokens, actions, video_starts

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.tokens)

    def read(self, start: int, stop: int) -> tuple[Int[Tensor, "t n"], Int[Tensor, " t-1"]]:
        """Tokens of rows start..stop-1 and the actions between them."""
        return self.tokens[start:stop].long(), self.actions[start : stop - 1].long()

    def save(self, folder: Path, fingerprint: str) -> None:
        """Write as an Arrow data set; the folder appears whole or not at all."""
        partial = _fresh_folder(folder, replace=True)
        features = datasets.Features(
            {
                "tokens": datasets.List(datasets.Value("int32"), length=self.tokens.shape[1]),
                "action": datasets.Value("int32"),
            }
        )
        columns = {
            "tokens": _fixed_lists(self.tokens.int().numpy()),
            "action": pa.array(self.actions.int().numpy()),
        }
        with ArrowWriter(path=str(partial / "rows.arrow"), features=features) as writer:
            writer.write_table(pa.table(columns))
            writer.finalize()
        (partial / "fingerprint").write_text(fingerprint)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)

    @classmethod
    def open(cls, folder: Path, fingerprint: str, video_starts: np.ndarray) -> "TokenStore | None":
        """The stored tokens, or None if there are none with this fingerprint."""
        stamp = folder / "fingerprint"
        if not stamp.is_file() or stamp.read_text() != fingerprint:
            return None
        rows = datasets.Dataset.from_file(str(folder / "rows.arrow"))
        tokens = torch.from_numpy(_Table(rows.data).read("tokens", 0, len(rows)).copy())
        actions = torch.from_numpy(rows.data.column("action").to_numpy().copy())
        return cls(tokens.reshape(len(rows), -1), actions, video_starts)


class Clips(torch.utils.data.Dataset):
    """Windows of `num_frames` neighbouring rows that never cross a video's end."""

    def __init__(self, store: FrameStore | TokenStore, num_frames: int, stride: int = 1) -> None:
        """Args: stride: rows between the starts of two windows.

        Raises:
            UserError: if no video is long enough.
        """
        self.store, self.num_frames = store, num_frames
        starts, stops = store.video_starts[:-1], store.video_starts[1:]
        windows = [
            np.arange(a, b - num_frames + 1, stride) for a, b in zip(starts, stops, strict=True)
        ]
        self.rows = np.concatenate(windows) if windows else np.zeros(0, dtype=np.int64)
        if len(self.rows) == 0:
            longest = int((stops - starts).max(initial=0))
            raise UserError(
                f"clips of {num_frames} frames are wanted, but the longest video has {longest}: "
                "give longer videos or a smaller clip length"
            )

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.rows)

    def row(self, index: int) -> int:
        """First row of a window in the store."""
        return int(self.rows[index])

    def __getitem__(self, index: int):
        """What the store reads there: frames, or (tokens, actions)."""
        row = self.row(index)
        return self.store.read(row, row + self.num_frames)


class _Table:
    """Fast reads of fixed-length columns of a data set."""

    def __init__(self, data: datasets.table.Table) -> None:
        self._data = data

    def read(self, column: str, start: int, stop: int) -> np.ndarray:
        chunks = self._data.column(column).slice(start, stop - start).chunks
        return np.concatenate([chunk.flatten().to_numpy() for chunk in chunks])


def _choose_splits(source: Path, heldout_share: float, min_frames: int) -> dict[Path, str]:
    """The split of each video, before any is decoded; BOTH for a video that is alone."""
    names = {path: _name_of(path, source) for path in find_videos(source)}
    splits = {path: _split_of(name, heldout_share) for path, name in names.items()}
    drawn = [path for path in names if not _split_of_folder(names[path])]
    drawn.sort(key=lambda path: _draw(names[path]))
    is_usable = cache(lambda path: _seems_usable(path, min_frames))

    def is_empty(split: str) -> bool:
        return not any(splits[path] == split and is_usable(path) for path in names)

    for split, candidates in (("heldout", drawn), ("train", drawn[::-1])):
        if is_empty(split):
            chosen = next((path for path in candidates if is_usable(path)), None)
            splits |= {chosen: split} if chosen else {}
    alone = next((path for path in drawn if is_usable(path)), None)
    missing = [split for split in SPLITS if is_empty(split)]
    if alone and missing:
        return splits | {alone: BOTH}
    if len(missing) == 1:
        raise _no_video_for(missing[0], source)
    return splits  # if both are missing, decoding will tell why


def _seems_usable(path: Path, min_frames: int) -> bool:
    try:
        return (video.declared_frames(path) or min_frames) >= min_frames
    except Exception:  # whatever it is, decoding will name it
        return False


def _split_of(name: str, heldout_share: float) -> str:
    return _split_of_folder(name) or ("heldout" if _draw(name) < heldout_share else "train")


def _split_of_folder(name: str) -> str | None:
    folders = name.split("/")[:-1]
    return next((split for split in SPLITS if split in folders), None)


def _draw(name: str) -> float:
    """A number in 0..1 that depends on the name only."""
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:4]) / 2**32


def _name_of(path: Path, source: Path) -> str:
    return path.relative_to(source).with_suffix("").as_posix()


def _write_frames(
    card: Card,
    source: Path,
    splits: dict[Path, str],
    folder: Path,
    heldout_share: float,
    min_frames: int,
    progress: Callable[[list[Path]], Iterable[Path]],
) -> None:
    """Write the frames into `folder` and what they are into `card`."""
    digest = hashlib.sha256()
    length = 3 * card.height * card.width
    features = datasets.Features({"frame": datasets.List(datasets.Value("uint8"), length=length)})
    writers = {s: ArrowWriter(path=str(folder / f"{s}.arrow"), features=features) for s in SPLITS}
    # Closed before anyone removes the folder: threads are writing into it.
    with closing(_readable(card, list(splits), folder, min_frames, progress)) as videos:
        for path, rows in videos:
            name = _name_of(path, source)
            parts = [(splits[path], name, rows)]
            if splits[path] == BOTH:
                parts = _halves(path, name, rows, heldout_share, min_frames)
            for split, name, part in parts:
                if name in card.videos[split]:
                    name += path.suffix  # clip.mp4 beside clip.mkv: two videos, two names
                digest.update(os.fsencode(f"{split} {name} "))
                for chunk in _chunks(part):
                    writers[split].write_table(pa.table({"frame": _fixed_lists(chunk)}))
                    digest.update(chunk)
                card.videos[split][name] = len(part)
            card.fps = card.fps or video.read_fps(path)
    card.fingerprint = digest.hexdigest()[:16]
    _check_splits(card, source, splits)
    for split, writer in writers.items():
        writer.finalize()
        _save_shards(folder, split)


def _readable(
    card: Card,
    paths: list[Path],
    folder: Path,
    min_frames: int,
    progress: Callable[[list[Path]], Iterable[Path]],
) -> Iterator[tuple[Path, np.ndarray]]:
    """Each usable video with its frames, "rows 3*h*w", which lie in a file until the next one.

    Whether a video is whole shows at its end, and a long one does not fit into memory.
    """
    is_closed = threading.Event()

    def decode(index: int) -> tuple[Path, int, str]:
        file, count = folder / f"decoded-{index}", 0
        with file.open("wb") as decoded:
            try:
                for frame in video.stream(paths[index], (card.height, card.width)):
                    if is_closed.is_set():
                        break
                    decoded.write(frame.numpy())
                    count += 1
            except UserError as error:
                return file, count, str(error)
        short = f"has {count} frames, {min_frames} are wanted" if count < min_frames else ""
        return file, count, short

    # Decoding leaves Python's lock, so threads share the cores; a few files ahead bound the disk.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            ahead = deque(pool.submit(decode, index) for index in range(len(paths))[:READ_AHEAD])
            for index, path in enumerate(progress(paths)):
                file, count, problem = ahead.popleft().result()
                if index + READ_AHEAD < len(paths):
                    ahead.append(pool.submit(decode, index + READ_AHEAD))
                if problem:
                    card.skipped[str(path)] = problem.removeprefix(f"{path} ")
                else:
                    length = 3 * card.height * card.width
                    yield path, np.memmap(file, np.uint8, "r", shape=(count, length))
                file.unlink()
        finally:
            is_closed.set()


def _halves(
    path: Path, name: str, rows: np.ndarray, heldout_share: float, min_frames: int
) -> list[tuple[str, str, np.ndarray]]:
    """Split, name and frames of the two parts of a video that is alone."""
    if len(rows) < 2 * min_frames:
        raise UserError(
            f"{path} is the only video and has {len(rows)} frames: add a second one, or give one "
            f"of at least {2 * min_frames} frames, of which the last are held out"
        )
    num_heldout = max(round(heldout_share * len(rows)), min_frames)
    cut = max(len(rows) - num_heldout, min_frames)
    return [("train", name, rows[:cut]), ("heldout", f"{name}-end", rows[cut:])]


def _chunks(rows: np.ndarray) -> Iterator[np.ndarray]:
    step = max(1, CHUNK_BYTES // rows.shape[1])
    for start in range(0, len(rows), step):
        yield np.array(rows[start : start + step])


def _check_splits(card: Card, source: Path, splits: dict[Path, str]) -> None:
    if not any(card.videos.values()):
        path, reason = next(iter(card.skipped.items()))
        raise UserError(f"none of the videos in {source} can be used; the first: {path} {reason}")
    for split in SPLITS:
        if not card.videos[split]:
            lost = [str(path) for path in splits if splits[path] == split]
            reasons = [f"{path}: {card.skipped[path]}" for path in lost if path in card.skipped]
            raise _no_video_for(split, source, *reasons[:1])


def _no_video_for(split: str, source: Path, reason: str = "all are for the other") -> UserError:
    return UserError(
        f"{source} gives no video for the {split} split ({reason}): add videos, or put some into "
        f"a folder called {split}"
    )


def _save_shards(folder: Path, split: str) -> None:
    datasets.disable_progress_bars()  # the caller shows one of its own, over the videos
    unsharded = folder / f"{split}.arrow"
    datasets.Dataset.from_file(str(unsharded)).save_to_disk(str(folder / split))
    unsharded.unlink()


def _num_bytes(path: Path) -> int:
    """Size of a file; -1 of one that cannot be looked at."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _total_memory() -> int:
    """Bytes of memory in this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _fixed_lists(rows: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])


def _fresh_folder(out: Path, *, replace: bool = False) -> Path:
    if out.exists() and not replace:
        raise UserError(f"{out} exists already: remove it or choose another --out")
    partial = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"cannot make {out}: {error.strerror or error}") from error
    return partial


def _starts(lengths: Iterable[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(list(lengths), dtype=np.int64)]).astype(np.int64)
