"""Shards: rows of frames become Arrow files, and these a folder that training reads at random.

In: frames and their numbers, some megabytes at a time, and what they are of. Out: a folder a split
that `datasets` opens, card.json and README.md. Knows neither where frames come from nor splits.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
from datasets.arrow_writer import ArrowWriter

from genie.data.card import Card, shard_name
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
        self._file: ArrowWriter | None = None
        self._num_rows = 0

    def write(self, frames: np.ndarray, numbers: np.ndarray) -> None:
        """Append uint8 frames, channels first, and which frame of its video each one is."""
        rows = frames.reshape(len(frames), self._length)
        while len(rows):
            count = min(len(rows), self._most_rows - self._num_rows)
            columns = {"frame": fixed_lists(rows[:count]), "number": pa.array(numbers[:count])}
            self._opened().write_table(pa.table(columns))
            self._num_rows += count
            rows, numbers = rows[count:], numbers[count:]
            if self._num_rows == self._most_rows:
                self.finish()

    def finish(self) -> None:
        """Complete the last file; `shards` then tells of all."""
        if self._file is None:
            return
        self._file.finalize()
        self.shards.append(Shard(self._path(), self._num_rows))
        self._file, self._num_rows = None, 0

    def _opened(self) -> ArrowWriter:
        if self._file is None:
            self._file = ArrowWriter(path=str(self._path()), features=_features(self._length))
        return self._file

    def _path(self) -> Path:
        return self._folder / f"{self._name}-{len(self.shards):05d}.arrow"


def _features(length: int) -> datasets.Features:
    return datasets.Features(
        {
            "frame": datasets.List(datasets.Value("uint8"), length=length),
            "number": datasets.Value("int32"),
        }
    )


def seal(folder: Path, shards: Sequence[Shard], split: str, card: Card) -> None:
    """Make the files in `folder` one data set that `datasets.load_from_disk` opens.

    Side effect: the card tells how many rows each of them has.
    """
    names = [shard_name(number, len(shards)) for number in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        os.replace(shard.path, folder / name)
    card.shards[split] = [shard.num_rows for shard in shards]
    features = _features(3 * card.height * card.width)
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

Of {len(card.damaged)} videos only the beginning is in.
{damaged}

In {len(card.standing)} videos nothing moves.
{standing}
"""
    # A name that is no text is shown with question marks.
    (folder / "README.md").write_bytes(text.encode(errors="replace"))


def fixed_lists(rows: np.ndarray) -> pa.Array:
    """An Arrow column of one list a row."""
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
