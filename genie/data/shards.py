"""Shards: rows of frames become Arrow files, and these a folder that training reads at random.

In: frames and their numbers, some megabytes at a time, and what they are of. Out: a folder a split,
card.json and README.md, which the library `datasets` opens as one data set. Knows neither where
frames come from nor splits.

The files are uncompressed Arrow streams, because training reads short windows at random places.
Measured with frames of 64x64 pixels, windows of 16 and one thread: 46,000 windows per second from
memory-mapped Arrow; from Parquet 40 (lists of bytes, groups of 256 rows, zstd) to 8,400 (binary,
groups of 16 rows, uncompressed). zstd makes simple drawings 30 times smaller, at 2,300 per second.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from genie.data.card import SPLITS, Card, shard_names
from genie.files import write_whole

SHARD_BYTES = 256 * 2**20


@dataclass(frozen=True)
class StoredVideo:
    """A video, or what of it is in one split; its rows follow each other."""

    name: str
    scenes: list[int]
    """Frames of each scene."""
    digest: str
    """Hash of the frames of the whole video."""
    start: int = 0
    """Which row of the whole video is the first one in here."""


@dataclass(frozen=True)
class Shard:
    """A finished file of rows."""

    path: Path
    num_rows: int


class ShardWriter:
    """Writes rows into files of about `SHARD_BYTES`, one after the other.

    Several may write into one folder side by side, each with names of its own; `seal` then gives
    all files their final names.
    """

    def __init__(self, folder: Path, size: tuple[int, int], name: str = "rows") -> None:
        """Args: size: height and width of the frames; name: of this writer's files."""
        self.shards: list[Shard] = []
        self._folder, self._name = folder, name
        self._length = 3 * size[0] * size[1]
        self._most_rows = max(1, SHARD_BYTES // self._length)
        self._stream: pa.RecordBatchStreamWriter | None = None
        self._opened = ExitStack()
        self._num_rows = 0

    def write(self, frames: np.ndarray, numbers: np.ndarray) -> None:
        """Append uint8 frames, channels first, and which frame of its video each one is."""
        rows = frames.reshape(len(frames), self._length)
        while len(rows):
            count = min(len(rows), self._most_rows - self._num_rows)
            columns = {
                "frame": fixed_lists(rows[:count]),
                "number": pa.array(numbers[:count], pa.int32()),
            }
            self._append(pa.table(columns))
            self._num_rows += count
            rows, numbers = rows[count:], numbers[count:]
            if self._num_rows == self._most_rows:
                self.finish()

    def finish(self) -> None:
        """Complete the last file; `shards` then tells of all."""
        if self._stream is None:
            return
        self._opened.close()
        self.shards.append(Shard(self._path(), self._num_rows))
        self._stream, self._num_rows = None, 0

    def _append(self, rows: pa.Table) -> None:
        if self._stream is None:
            self._stream = self._opened.enter_context(write_stream(self._path(), rows.schema))
        self._stream.write_table(rows)

    def _path(self) -> Path:
        return self._folder / f"{self._name}-{len(self.shards):05d}.arrow"


def seal(folder: Path, shards: Sequence[Shard], split: str, card: Card) -> None:
    """Give the files in `folder` their final names.

    Side effect: the card tells how many rows each of them has.
    """
    for name, shard in zip(shard_names(len(shards)), shards, strict=True):
        os.replace(shard.path, folder / name)
    card.shards[split] = [shard.num_rows for shard in shards]


def list_videos(videos: Mapping[str, Sequence[StoredVideo]]) -> dict:
    """What a card says of the videos of each split: names and scenes, and the fingerprints."""
    digests = {split: hashlib.sha256(split.encode()) for split in videos}
    for split, digest in digests.items():
        for video in videos[split]:
            stop = video.start + sum(video.scenes)
            told = f"{video.name} {video.start} {stop} {video.scenes} "
            digest.update(os.fsencode(told + video.digest))
    fingerprints = {split: digest.hexdigest()[:16] for split, digest in digests.items()}
    whole = hashlib.sha256("".join(fingerprints.values()).encode())
    return {
        "fingerprint": whole.hexdigest()[:16],
        "split_fingerprints": fingerprints,
        "videos": {split: {v.name: v.scenes for v in own} for split, own in videos.items()},
    }


def write_card(card: Card, folder: Path) -> None:
    """Write card.json, for programs, and README.md, for people."""
    write_whole(folder / "card.json", json.dumps(asdict(card), indent=1))
    splits = "\n".join(
        f"| {split} | {len(card.videos[split])} | {sum(map(len, card.videos[split].values()))} | "
        f"{card.num_frames(split)} | {card.num_hours(split):.2f} |"
        for split in card.videos
    )
    skipped, damaged = (
        "\n".join(f"- {label}: {reason}" for label, reason in told.items())
        for told in (card.skipped, card.damaged)
    )
    standing = "\n".join(f"- {label}" for label in card.standing)
    files = "\n".join(f"  - split: {split}\n    path: {split}/*.arrow" for split in SPLITS)
    text = f"""---
pretty_name: frames of {sum(map(len, card.videos.values()))} videos
task_categories: [video-classification]
configs:
- config_name: default
  data_files:
{files}
---

# Prepared videos

{card.height}×{card.width} pixels, {card.fps:g} frames per second, fingerprint {card.fingerprint}.

| split | videos | scenes | frames | hours |
|---|---|---|---|---|
{splits}

{card.num_decoded} frames were looked at; {card.num_cuts} cuts were found; {card.num_still} frames
were dropped because nothing had changed for long, {card.num_short} in scenes too short.

`datasets.load_dataset(PLACE, split="train", streaming=True)` reads one row a frame, where PLACE is
this folder or its name on the Hugging Face hub: `frame` is 3×{card.height}×{card.width} bytes,
channels first, and `number` is which frame of its video it is. Without `streaming=True` the library
first copies all frames. card.json lists videos, scenes and sources.

{len(card.skipped)} videos were left out.
{skipped}

Of {len(card.damaged)} videos only the beginning is in.
{damaged}

In {len(card.standing)} videos nothing moves.
{standing}
"""
    # A name that is no text is shown with question marks.
    (folder / "README.md").write_bytes(text.encode(errors="replace"))


@contextmanager
def write_stream(path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatchStreamWriter]:
    """Open a new Arrow file, through Python, whose errors say plainly that a disk is full."""
    with path.open("wb") as file, pa.ipc.new_stream(file, schema) as stream:
        yield stream


def fixed_lists(rows: np.ndarray) -> pa.Array:
    """An Arrow column of one list a row."""
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
