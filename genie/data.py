"""Clips: a folder of videos becomes Arrow shards, and shards become windows of frames or tokens.

In: video files. Out: `frames` (stored, uint8) in windows that never cross a video's end, and
windows of `tokens` with `actions`. Knows nothing of models or losses.
"""

import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

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
FORMAT_VERSION = 1
IN_MEMORY_SHARE = 0.15
READ_AHEAD = 8


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
    chosen by a hash of the name, is held out. Broken videos are skipped and named in the card.
    The folder appears whole or not at all.

    Args:
        source: folder tree with videos.
        out: the folder to make; must not exist.
        size: (height, width) in pixels that all frames are cropped and resized to.
        heldout_share: 0..1, for videos whose folder does not tell.
        min_frames: shorter videos are skipped.
        progress: wraps the list of paths, to show a bar.

    Raises:
        UserError: if there is no usable video, or `out` exists or cannot be written.
    """
    paths = find_videos(source)
    partial = _fresh_folder(out)
    try:
        card = _write_frames(paths, source, partial, size, heldout_share, min_frames, progress)
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
    paths = sorted(p for p in source.rglob("*") if p.suffix.lower() in video.VIDEO_SUFFIXES)
    if not paths:
        raise UserError(
            f"{source} holds no videos: put files ending in "
            f"{', '.join(sorted(video.VIDEO_SUFFIXES))} there"
        )
    return paths


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
    return config_from_dict(Card, values, where=str(path))


class FrameStore:
    """Memory-mapped frames of one split, one row a frame."""

    def __init__(self, table: "_Table", card: Card, split: str) -> None:
        """Use `open`."""
        self._table = table
        self.size = (card.height, card.width)
        self.fps = card.fps
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
        return cls(_Table(folder / split, in_memory), card, split)

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
        table = {"tokens": _fixed_lists(self.tokens.int().numpy()), "action": self.actions.int()}
        with ArrowWriter(path=str(partial / "rows.arrow"), features=features) as writer:
            writer.write_table(pa.table({**table, "action": pa.array(table["action"].numpy())}))
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
        table = _Table.of(rows)
        tokens = torch.from_numpy(table.read("tokens", 0, len(rows)).copy())
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
    """Fast reads of fixed-length columns from a memory-mapped data set."""

    def __init__(self, folder: Path, in_memory: bool) -> None:
        self._data = datasets.load_from_disk(str(folder), keep_in_memory=in_memory).data

    @classmethod
    def of(cls, rows: datasets.Dataset) -> "_Table":
        table = cls.__new__(cls)
        table._data = rows.data
        return table

    def read(self, column: str, start: int, stop: int) -> np.ndarray:
        chunks = self._data.column(column).slice(start, stop - start).chunks
        return np.concatenate([chunk.flatten().to_numpy() for chunk in chunks])


def _write_frames(
    paths: list[Path],
    source: Path,
    folder: Path,
    size: tuple[int, int],
    heldout_share: float,
    min_frames: int,
    progress: Callable[[list[Path]], Iterable[Path]],
) -> Card:
    card = Card(height=size[0], width=size[1], fps=0.0, videos={split: {} for split in SPLITS})
    digest = hashlib.sha256()
    length = 3 * size[0] * size[1]
    features = datasets.Features({"frame": datasets.List(datasets.Value("uint8"), length=length)})
    writers = {s: ArrowWriter(path=str(folder / f"{s}.arrow"), features=features) for s in SPLITS}
    for path, frames in _readable(paths, size, min_frames, card.skipped, progress):
        name = path.relative_to(source).with_suffix("").as_posix()
        split = _split_of(name, heldout_share)
        if name in card.videos[split]:
            name += path.suffix  # clip.mp4 beside clip.mkv: two videos, two names
        rows = frames.flatten(1).numpy()
        writers[split].write_table(pa.table({"frame": _fixed_lists(rows)}))
        digest.update(f"{split} {name} ".encode())
        digest.update(rows)
        card.videos[split][name] = len(rows)
        card.fps = card.fps or video.read_fps(path)
    card.fingerprint = digest.hexdigest()[:16]
    _check_splits(card, source)
    for split, writer in writers.items():
        writer.finalize()
        _save_shards(folder, split)
    return card


def _readable(
    paths: list[Path],
    size: tuple[int, int],
    min_frames: int,
    skipped: dict[str, str],
    progress: Callable[[list[Path]], Iterable[Path]],
) -> Iterator[tuple[Path, UInt8[Tensor, "t 3 h w"]]]:
    def read(path: Path) -> UInt8[Tensor, "t 3 h w"] | UserError:
        try:
            return video.read(path, size)
        except UserError as error:
            return error

    # Decoding leaves Python's lock, so threads share the cores; a few files ahead bound the memory.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        ahead = deque(pool.submit(read, path) for path in paths[:READ_AHEAD])
        for index, path in enumerate(progress(paths)):
            frames = ahead.popleft().result()
            if index + READ_AHEAD < len(paths):
                ahead.append(pool.submit(read, paths[index + READ_AHEAD]))
            if isinstance(frames, UserError):
                skipped[str(path)] = str(frames)
            elif len(frames) < min_frames:
                skipped[str(path)] = f"has {len(frames)} frames, {min_frames} are wanted"
            else:
                yield path, frames


def _split_of(name: str, heldout_share: float) -> str:
    folders = name.split("/")[:-1]
    for split in SPLITS:
        if split in folders:
            return split
    draw = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) / 2**32
    return "heldout" if draw < heldout_share else "train"


def _check_splits(card: Card, source: Path) -> None:
    if not any(card.videos.values()):
        reason = next(iter(card.skipped.values()))
        raise UserError(f"none of the videos in {source} can be used; the first: {reason}")
    for split in SPLITS:
        if not card.videos[split]:
            raise UserError(
                f"{source} gives no video for the {split} split: add videos, or put some into "
                f"a folder called {split}"
            )


def _save_shards(folder: Path, split: str) -> None:
    datasets.disable_progress_bars()  # the caller shows one of its own, over the videos
    unsharded = folder / f"{split}.arrow"
    datasets.Dataset.from_file(str(unsharded)).save_to_disk(str(folder / split))
    unsharded.unlink()


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
