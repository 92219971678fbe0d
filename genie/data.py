"""Clips: Arrow shards of frames and tokens become windows to learn from.

In: a prepared folder, which `shards` writes. Out: `frames` (stored, uint8) in windows that never
cross a cut or a video's end, and windows of `tokens` with `actions`. Knows nothing of models or
losses.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import datasets
import fsspec
import numpy as np
import pyarrow as pa
import torch
from datasets.arrow_writer import ArrowWriter
from jaxtyping import Int, UInt8
from torch import Tensor

from genie.checkpoint import config_from_dict
from genie.errors import UserError
from genie.files import whole_folder, writing

SPLITS = ("train", "heldout")
FORMAT_VERSION = 3
IN_MEMORY_SHARE = 0.15
SHARDS_IN_MEMORY = 4
BROUGHT_BYTES = 64 * 2**20


@dataclass(kw_only=True)
class Card:
    """What a prepared folder holds; stored in it as card.json."""

    version: int = FORMAT_VERSION
    """Format of the folder."""
    height: int
    """Pixels."""
    width: int
    """Pixels."""
    fps: float
    """Frames per second: those asked for, or else the first video's."""
    fingerprint: str = ""
    """Hash of all frames, names, scenes and splits, in order; ties tokens to their frames."""
    split_fingerprints: dict[str, str] = field(default_factory=dict)
    """Per split: hash of its own frames, names and scenes; ties figures to the held-out videos,
    whatever was trained on beside them."""
    videos: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    """Per split: each video's name and the frames of each of its scenes, in the order of rows."""
    shards: dict[str, list[int]] = field(default_factory=dict)
    """Per split: the frames in each of its files."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Videos left out, each with its reason."""
    damaged: dict[str, str] = field(default_factory=dict)
    """Videos of which only the beginning is in, each with its reason."""
    standing: tuple[str, ...] = ()
    """Videos in which nothing moves from the first frame to the last; they teach nothing."""
    num_decoded: int = 0
    """Frames that were looked at, of the videos that are in."""
    num_still: int = 0
    """Frames dropped because nothing had changed for long."""
    num_short: int = 0
    """Frames dropped in scenes too short to learn from."""
    num_cuts: int = 0
    """Cuts found inside of videos."""
    source: dict[str, Any] = field(default_factory=dict)
    """What the folder was made from, as `preparing.describe_source` tells it, or the options of a
    recording."""

    def num_frames(self, split: str) -> int:
        """Frames of a split."""
        return sum(sum(scenes) for scenes in self.videos[split].values())

    def num_hours(self, split: str) -> float:
        """How long a split plays."""
        return self.num_frames(split) / self.fps / 3600


def is_prepared(folder: str | Path) -> bool:
    """Whether `folder` is one that `prepare` made; of a place elsewhere only reading tells."""
    return is_remote(folder) or (Path(folder) / "card.json").is_file()


def is_remote(folder: str | Path) -> bool:
    """Whether a prepared folder lies elsewhere, such as hf://datasets/owner/name or s3://..."""
    return "://" in str(folder)


def read_card(folder: str | Path) -> Card:
    """The card of a prepared folder.

    Raises:
        UserError: if the folder was not made by `prepare`, or by another version, or its card is
            damaged.
    """
    if not is_prepared(folder):
        raise UserError(f"{folder} is not a prepared folder: run python -m train.prepare first")
    path = f"{folder}/card.json"
    content = _fetch(path)
    try:
        values = json.loads(content)
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}): prepare the data again") from error
    version = values.get("version") if isinstance(values, dict) else None
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path} has data format {version}, this program reads {FORMAT_VERSION}: "
            "run python -m train.prepare again"
        )
    # Folders that were made before these were told.
    values = {"damaged": {}, "standing": []} | values
    card = config_from_dict(Card, values, where=path)
    by_split = (card.split_fingerprints, card.videos, card.shards)
    if any(not isinstance(facts, dict) or facts.keys() != set(SPLITS) for facts in by_split):
        raise UserError(f"{path} does not tell of {' and '.join(SPLITS)}: prepare the data again")
    return card


def game_of(name: str) -> str:
    """The game of a video: the folders above the one that claims it for a split, else ""."""
    folders = name.split("/")[:-1]
    claims = [number for number, folder in enumerate(folders) if folder in SPLITS]
    return "/".join(folders[: claims[0]]) if claims else ""


def shard_name(number: int, of: int) -> str:
    """File name of a shard, as the library `datasets` has it."""
    return f"data-{number:05d}-of-{of:05d}.arrow"


class FrameStore:
    """Frames of one split, one row a frame: memory-mapped, or fetched shard by shard."""

    def __init__(
        self, table: "_Table | _RemoteTable | _SomeVideos", card: Card, split: str
    ) -> None:
        """Use `open`."""
        self._table, self._card = table, card
        self._path = ""  # of files that may still be read into memory
        self.size = (card.height, card.width)
        self.fps, self.split = card.fps, split
        self.fingerprint = card.fingerprint
        self.split_fingerprint = card.split_fingerprints[split]
        videos = card.videos[split]
        self.video_names = list(videos)
        self.video_starts = starts(sum(scenes) for scenes in videos.values())
        self.scene_starts = starts(frames for scenes in videos.values() for frames in scenes)
        self.block_starts = starts(card.shards[split]) if isinstance(table, _RemoteTable) else None
        """Where rows begin that are best read together; None if any order is as good."""

    @classmethod
    def open(cls, folder: str | Path, split: str) -> "FrameStore":
        """Open one split ("train" or "heldout") of a prepared folder, here or elsewhere.

        Raises:
            UserError: if the folder is not a prepared one or cannot be reached.
        """
        card = read_card(folder)
        if is_remote(folder):
            return cls(_RemoteTable(f"{folder}/{split}", card.shards[split]), card, split)
        store = cls(_Table(_open_rows(f"{folder}/{split}")), card, split)
        if len(store) != store._table.num_rows:
            found, wanted = store._table.num_rows, len(store)
            raise _damaged(f"{folder}/{split}", f"{found} frames, {wanted} are wanted")
        store._path = f"{folder}/{split}"
        return store

    def hold(self) -> None:
        """Side effect: frames that take a small share of the memory are read into it.

        Random reads of a cold file on a slow disk would starve training.
        """
        if self._path and self.num_bytes < _total_memory() * IN_MEMORY_SHARE:
            self._table = _Table(_open_rows(self._path, in_memory=True))
            self._path = ""

    def __len__(self) -> int:
        """Number of frames."""
        return int(self.video_starts[-1])

    @property
    def num_bytes(self) -> int:
        """What all frames take."""
        return len(self) * 3 * self.size[0] * self.size[1]

    def by_game(self) -> dict[str, "FrameStore"]:
        """A store for the videos of each game, see `game_of`; a clip of one has rows of its own."""
        games: dict[str, list[int]] = {}
        for number, name in enumerate(self.video_names):
            games.setdefault(game_of(name), []).append(number)
        return {game: self._only(numbers) for game, numbers in games.items()}

    def _only(self, numbers: list[int]) -> "FrameStore":
        if len(numbers) == len(self.video_names):
            return self
        chosen = [self.video_names[number] for number in numbers]
        scenes = self._card.videos[self.split]
        card = replace(self._card, videos={self.split: {name: scenes[name] for name in chosen}})
        lengths = np.diff(self.video_starts)[numbers].tolist()
        table = _SomeVideos(self._table, starts(lengths), self.video_starts[numbers])
        return FrameStore(table, card, self.split)

    def read(self, start: int, stop: int) -> UInt8[Tensor, "t 3 h w"]:
        """Frames of rows start..stop-1."""
        rows = self._table.read("frame", start, stop)
        return torch.from_numpy(rows.reshape(stop - start, 3, *self.size))

    def make_room(self, num_rows: int, device: torch.device) -> tuple[UInt8[Tensor, "rows 3 h w"]]:
        """Room on a device for what `bring` brings, of this store or of several alike."""
        return (torch.empty(num_rows, 3, *self.size, dtype=torch.uint8, device=device),)

    def bring(self, columns: tuple[UInt8[Tensor, "rows 3 h w"]]) -> None:
        """Side effect: all frames are in there, as many as it has rows."""
        at_once = max(1, BROUGHT_BYTES // (3 * self.size[0] * self.size[1]))
        for start in range(0, len(self), at_once):
            stop = min(start + at_once, len(self))
            columns[0][start:stop] = self.read(start, stop)

    @staticmethod
    def pick(
        columns: tuple[UInt8[Tensor, "rows 3 h w"]], windows: Int[Tensor, "b t"]
    ) -> UInt8[Tensor, "b t 3 h w"]:
        """What `read` gives, for many windows at once, from what `bring` has brought."""
        return columns[0][windows]

    def numbers(self) -> Int[Tensor, " rows"]:
        """Which frame of its video each row is; numbers are missing where frames were dropped."""
        column = self._table.read_scalars("number")
        return torch.from_numpy(column.astype(np.int64))


class TokenStore:
    """Tokens and actions of one split, row for row beside a `FrameStore`, held in memory."""

    def __init__(
        self,
        tokens: Int[Tensor, "rows n"],
        actions: Int[Tensor, " rows"],
        scene_starts: np.ndarray,
    ) -> None:
        """Args: actions: action of row i leads to row i+1; what it is at a scene's end is void."""
        self.tokens, self.actions, self.scene_starts = tokens, actions, scene_starts

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.tokens)

    @property
    def num_bytes(self) -> int:
        """What all tokens and actions take."""
        return self.tokens.nbytes + self.actions.nbytes

    def hold(self) -> None:
        """Tokens are in memory from the start."""

    def read(self, start: int, stop: int) -> tuple[Int[Tensor, "t n"], Int[Tensor, " t-1"]]:
        """Tokens of rows start..stop-1 and the actions between them."""
        return self.tokens[start:stop].long(), self.actions[start : stop - 1].long()

    def make_room(
        self, num_rows: int, device: torch.device
    ) -> tuple[Int[Tensor, "rows n"], Int[Tensor, " rows"]]:
        """Room on a device for what `bring` brings, of this store or of several alike."""
        facts = self.tokens, self.actions
        return tuple(x.new_empty(num_rows, *x.shape[1:], device=device) for x in facts)

    def bring(self, columns: tuple[Int[Tensor, "rows n"], Int[Tensor, " rows"]]) -> None:
        """Side effect: all tokens and actions are in there, as many as it has rows."""
        for column, facts in zip(columns, (self.tokens, self.actions), strict=True):
            column.copy_(facts)

    @staticmethod
    def pick(
        columns: tuple[Int[Tensor, "rows n"], Int[Tensor, " rows"]], windows: Int[Tensor, "b t"]
    ) -> tuple[Int[Tensor, "b t n"], Int[Tensor, "b t-1"]]:
        """What `read` gives, for many windows at once, from what `bring` has brought."""
        tokens, actions = columns
        return tokens[windows].long(), actions[windows[:, :-1]].long()

    def save(self, folder: Path, fingerprint: str) -> None:
        """Write as an Arrow data set; the folder appears whole or not at all.

        Raises:
            UserError: if it cannot be written.
        """
        with writing(folder), whole_folder(folder) as partial:
            self._write(partial)
            (partial / "fingerprint").write_text(fingerprint)

    def _write(self, folder: Path) -> None:
        features = datasets.Features(
            {
                "tokens": datasets.List(datasets.Value("int32"), length=self.tokens.shape[1]),
                "action": datasets.Value("int32"),
            }
        )
        columns = {
            "tokens": fixed_lists(self.tokens.int().numpy()),
            "action": pa.array(self.actions.int().numpy()),
        }
        with ArrowWriter(path=str(folder / "rows.arrow"), features=features) as writer:
            writer.write_table(pa.table(columns))
            writer.finalize()

    @classmethod
    def open(cls, folder: Path, fingerprint: str, scene_starts: np.ndarray) -> "TokenStore | None":
        """The stored tokens, or None if there are none with this fingerprint, or torn ones."""
        stamp = folder / "fingerprint"
        if not stamp.is_file() or stamp.read_text() != fingerprint:
            return None
        try:
            rows = datasets.Dataset.from_file(str(folder / "rows.arrow"))
            tokens = torch.from_numpy(_Table(rows.data).read("tokens", 0, len(rows)).copy())
            actions = torch.from_numpy(_Table(rows.data).read_scalars("action").copy())
        except (OSError, pa.ArrowInvalid):
            return None
        return cls(tokens.reshape(len(rows), -1), actions, scene_starts)


class Clips(torch.utils.data.Dataset):
    """Windows of `num_frames` neighbouring rows that never cross a scene's end."""

    def __init__(self, store: FrameStore | TokenStore, num_frames: int, stride: int = 1) -> None:
        """Args: stride: rows between the starts of two windows.

        Raises:
            UserError: if no video is long enough.
        """
        self.store, self.num_frames = store, num_frames
        begins, ends = store.scene_starts[:-1], store.scene_starts[1:]
        windows = [
            np.arange(a, b - num_frames + 1, stride) for a, b in zip(begins, ends, strict=True)
        ]
        self.rows = np.concatenate(windows) if windows else np.zeros(0, dtype=np.int64)
        if len(self.rows) == 0:
            longest = int((ends - begins).max(initial=0))
            raise UserError(
                f"clips of {num_frames} frames are wanted, but the longest scene has {longest}: "
                "give longer videos or a smaller clip length"
            )

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.rows)

    @property
    def block_sizes(self) -> tuple[int, ...]:
        """How many neighbouring windows are best read together; one block if order is free."""
        block_starts = getattr(self.store, "block_starts", None)
        if block_starts is None:
            return (len(self.rows),)
        edges = np.searchsorted(self.rows, block_starts)
        return tuple(int(size) for size in np.diff(edges) if size)

    def row(self, index: int) -> int:
        """First row of a window in the store."""
        return int(self.rows[index])

    def __getitem__(self, index: int):
        """What the store reads there: frames, or (tokens, actions)."""
        row = self.row(index)
        return self.store.read(row, row + self.num_frames)


class _Table:
    """Fast reads of fixed-length columns of a data set."""

    def __init__(self, data: datasets.table.Table | pa.Table) -> None:
        self._data, self.num_rows = data, data.num_rows

    def read(self, column: str, start: int, stop: int) -> np.ndarray:
        chunks = self._data.column(column).slice(start, stop - start).chunks
        return np.concatenate([chunk.flatten().to_numpy() for chunk in chunks])

    def read_scalars(self, column: str) -> np.ndarray:
        return self._data.column(column).to_numpy()


class _RemoteTable:
    """The same of shards that lie elsewhere; the last few stay in memory."""

    def __init__(self, place: str, lengths: list[int]) -> None:
        self._starts = starts(lengths)
        names = [f"{place}/{shard_name(n, len(lengths))}" for n in range(len(lengths))]
        self._shard = lru_cache(SHARDS_IN_MEMORY)(lambda number: _fetch_table(names[number]))

    def read(self, column: str, start: int, stop: int) -> np.ndarray:
        pieces = []
        while start < stop:
            number = int(np.searchsorted(self._starts, start, side="right")) - 1
            first, end = self._starts[number : number + 2]
            upto = min(stop, int(end))
            pieces.append(self._shard(number).read(column, start - int(first), upto - int(first)))
            start = upto
        return np.concatenate(pieces)

    def read_scalars(self, column: str) -> np.ndarray:
        numbers = range(len(self._starts) - 1)
        return np.concatenate([self._shard(number).read_scalars(column) for number in numbers])


class _SomeVideos:
    """The same of some videos of a table, as if there were no others."""

    def __init__(self, table: "_Table | _RemoteTable", here: np.ndarray, there: np.ndarray) -> None:
        """Args: here: where the videos begin, and the end; there: where they begin in `table`."""
        self._table, self._here, self._there = table, here, there

    def read(self, column: str, start: int, stop: int) -> np.ndarray:
        pieces = []
        while start < stop:
            number = int(np.searchsorted(self._here, start, side="right")) - 1
            shift = int(self._there[number] - self._here[number])
            upto = min(stop, int(self._here[number + 1]))
            pieces.append(self._table.read(column, start + shift, upto + shift))
            start = upto
        return np.concatenate(pieces)

    def read_scalars(self, column: str) -> np.ndarray:
        whole, lengths = self._table.read_scalars(column), np.diff(self._here)
        pieces = zip(self._there, lengths, strict=True)
        return np.concatenate([whole[first : first + length] for first, length in pieces])


def _open_rows(path: str, in_memory: bool = False) -> datasets.table.Table:
    try:
        return datasets.load_from_disk(path, keep_in_memory=in_memory).data
    except Exception as error:  # the library and Arrow raise whatever they meet
        raise _damaged(path, error) from error


def _fetch_table(path: str) -> _Table:
    content = _fetch(path)
    try:
        return _Table(pa.ipc.open_stream(pa.BufferReader(content)).read_all())
    except (pa.ArrowInvalid, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(place: str, why: object) -> UserError:
    told = " ".join(str(why).split())[:300]
    return UserError(f"{place} is damaged or incomplete ({told}): copy it again, or prepare anew")


def _fetch(path: str) -> bytes:
    """A file's content, from this machine or from wherever fsspec reaches.

    Raises:
        UserError: if it is not there.
    """
    try:
        with fsspec.open(path, "rb") as file:
            return file.read()
    except Exception as error:  # whatever the many file systems raise
        why = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"cannot read {path} ({why}): check the place") from error


def _total_memory() -> int:
    """Bytes of memory in this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def fixed_lists(rows: np.ndarray) -> pa.Array:
    """An Arrow column of one list a row."""
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])


def starts(lengths: Iterable[int]) -> np.ndarray:
    """Where stretches of these lengths begin in a row, and the end of the last."""
    return np.concatenate([[0], np.cumsum(list(lengths), dtype=np.int64)]).astype(np.int64)
