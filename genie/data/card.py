"""The card of a prepared folder: what is in it, and what became of what is not.

In: a folder, here or elsewhere. Out: its `Card`. Knows no frames.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec

from genie.configs import config_from_dict
from genie.errors import UserError

SPLITS = ("train", "heldout")
FORMAT_VERSION = 3


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
    """What the folder was made from, as `prepare.describe_source` tells it, or the options of a
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
    content = fetch(path)
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


def shard_names(count: int) -> list[str]:
    """File names of a split's shards, in the style of the library `datasets`."""
    return [f"data-{number:05d}-of-{count:05d}.arrow" for number in range(count)]


def fetch(path: str) -> bytes:
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
