"""Clips: Arrow shards of frames and tokens become windows to learn from.

In: a prepared folder, which `shards` writes. Out: `frames` (stored, uint8) in windows that never
cross a cut or a video's end, and windows of `tokens` with `actions`. Knows nothing of models or
losses.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from genie.data.card import Card, fetch, game_of, is_remote, read_card, shard_names
from genie.data.shards import fixed_lists, write_stream
from genie.errors import UserError
from genie.files import whole_folder, writing

IN_MEMORY_SHARE = 0.15
SHARDS_IN_MEMORY = 4
BROUGHT_BYTES = 64 * 2**20
ROWS_AT_ONCE = 2**16


class FrameStore:
    """Frames of one split, one row a frame: memory-mapped, or fetched shard by shard."""

    def __init__(self, table: "_Rows", card: Card, split: str) -> None:
        """Use `open`."""
        self._table, self._card = table, card
        self._path = ""  # of the split's folder, while `hold` may still read it into memory
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
            UserError: if the folder is not a prepared one or cannot be reached, or a file in it is
                missing or damaged.
        """
        card, place = read_card(folder), f"{folder}/{split}"
        lengths, wanted = card.shards[split], card.num_frames(split)
        if sum(lengths) != wanted:
            raise _damaged(place, f"its files have {sum(lengths)} frames, its videos {wanted}")
        if is_remote(folder):
            return cls(_RemoteTable(place, lengths), card, split)
        store = cls(_open_table(place, lengths), card, split)
        store._path = place
        return store

    def hold(self) -> None:
        """Side effect: frames that take a small share of the memory are read into it.

        Random reads of a cold file on a slow disk would starve training.

        Raises:
            UserError: if a file has become unreadable.
        """
        if self._path and self.num_bytes < _total_memory() * IN_MEMORY_SHARE:
            lengths = self._card.shards[self.split]
            self._table = _open_table(self._path, lengths, in_memory=True)
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
        tokens, actions = (
            facts.new_empty(num_rows, *facts.shape[1:], device=device)
            for facts in (self.tokens, self.actions)
        )
        return tokens, actions

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
        """Write as an Arrow stream; the folder appears whole or not at all.

        Raises:
            UserError: if it cannot be written.
        """
        with writing(folder), whole_folder(folder) as partial:
            self._write(partial)
            (partial / "fingerprint").write_text(fingerprint)

    def _write(self, folder: Path) -> None:
        columns = {
            "tokens": fixed_lists(self.tokens.int().numpy()),
            "action": pa.array(self.actions.int().numpy()),
        }
        rows = pa.table(columns)
        with write_stream(folder / "rows.arrow", rows.schema) as stream:
            stream.write_table(rows, ROWS_AT_ONCE)

    @classmethod
    def open(cls, folder: Path, fingerprint: str, scene_starts: np.ndarray) -> "TokenStore | None":
        """The stored tokens, or None if there are none with this fingerprint, or torn ones."""
        stamp = folder / "fingerprint"
        if not stamp.is_file() or stamp.read_text() != fingerprint:
            return None
        num_rows = int(scene_starts[-1])
        try:
            rows = _open_shard(str(folder / "rows.arrow"), num_rows, datasets.Dataset.from_file)
        except UserError:
            return None
        tokens = torch.from_numpy(_Table(rows).read("tokens", 0, num_rows).copy())
        actions = torch.from_numpy(_Table(rows).read_scalars("action").copy())
        return cls(tokens.reshape(num_rows, -1), actions, scene_starts)


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

    def __init__(self, rows: datasets.Dataset) -> None:
        self._data = rows.data

    def read(self, column: str, start: int, stop: int) -> np.ndarray:
        chunks = self._data.column(column).slice(start, stop - start).chunks
        return np.concatenate([chunk.flatten().to_numpy() for chunk in chunks])

    def read_scalars(self, column: str) -> np.ndarray:
        return self._data.column(column).to_numpy()


class _RemoteTable:
    """The same of shards that lie elsewhere; the last few stay in memory."""

    def __init__(self, place: str, lengths: Sequence[int]) -> None:
        self._place, self._lengths = place, lengths
        self._starts, self._names = starts(lengths), shard_names(len(lengths))
        self._shard = lru_cache(SHARDS_IN_MEMORY)(self._fetch)

    def __reduce__(self) -> tuple:
        """Another process fetches shards of its own."""
        return _RemoteTable, (self._place, self._lengths)

    def _fetch(self, number: int) -> _Table:
        path = f"{self._place}/{self._names[number]}"
        return _Table(_open_shard(path, self._lengths[number], _fetch_rows))

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

    def __init__(self, table: "_Rows", here: np.ndarray, there: np.ndarray) -> None:
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


_Rows = _Table | _RemoteTable | _SomeVideos


def _open_table(folder: str, lengths: Sequence[int], in_memory: bool = False) -> _Table:
    """All files of a split as one table.

    Pickled for another process, memory-mapped files are only their names.
    """
    read = partial(datasets.Dataset.from_file, in_memory=in_memory)
    shards = zip(shard_names(len(lengths)), lengths, strict=True)
    rows = [_open_shard(f"{folder}/{name}", length, read) for name, length in shards]
    return _Table(datasets.concatenate_datasets(rows))


def _open_shard(
    path: str, num_rows: int, read: Callable[[str], datasets.Dataset]
) -> datasets.Dataset:
    """Open a file with `read`.

    Raises:
        UserError: if it cannot be read, or has another number of rows.
    """
    try:
        rows = read(path)
    except UserError:
        raise
    except Exception as error:  # the library and Arrow raise whatever they meet
        raise _damaged(path, error) from error
    if len(rows) != num_rows:
        raise _damaged(path, f"{len(rows)} rows, {num_rows} are wanted")
    return rows


def _fetch_rows(path: str) -> datasets.Dataset:
    return datasets.Dataset.from_buffer(pa.py_buffer(fetch(path)))


def _damaged(place: str, why: object) -> UserError:
    told = " ".join(str(why).split())[:300]
    return UserError(f"{place} is damaged or incomplete ({told}): copy it again, or prepare anew")


def _total_memory() -> int:
    """Bytes of memory in this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def starts(lengths: Iterable[int]) -> np.ndarray:
    """Where stretches of these lengths begin in a row, and the end of the last."""
    return np.concatenate([[0], np.cumsum(list(lengths), dtype=np.int64)]).astype(np.int64)
