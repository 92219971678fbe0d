"""Which video is trained on and which is held out: a function of names alone, where possible.

In: parts. Out: pieces of them for each split. Reads and writes nothing.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from genie.data.card import SPLITS
from genie.data.parts import Part
from genie.errors import UserError


@dataclass(frozen=True)
class Piece:
    """Frames start..stop-1 of a part, which go to one split under one name."""

    part: Part
    name: str
    start: int
    stop: int

    @property
    def scenes(self) -> list[int]:
        """Number of frames of each scene in this piece; scenes outside it are left out."""
        edges = np.cumsum([0, *self.part.scenes]).clip(self.start, self.stop)
        return [int(b - a) for a, b in pairwise(edges) if b > a]


def choose_splits(
    parts: Sequence[Part], heldout_share: float, min_frames: int
) -> dict[str, list[Piece]]:
    """The pieces of each split.

    Raises:
        UserError: if no part is usable, or a split stays empty.
    """
    usable = [part for part in parts if not part.problem]
    if not usable:
        first = next((f"{p.label} {p.problem}" for p in parts), "there are none")
        raise UserError(f"none of the videos can be used; the first: {first}")
    splits = {part.key: _split_of(part.name, heldout_share) for part in usable}
    unclaimed = [part for part in usable if not split_of_folder(part.name)]
    unclaimed.sort(key=lambda part: _draw(part.name))
    for split, candidates in (("heldout", unclaimed), ("train", unclaimed[::-1])):
        if split not in splits.values() and candidates:
            splits[candidates[0].key] = split
    missing = [split for split in SPLITS if split not in splits.values()]
    if missing and not unclaimed:
        bad = next((f"{p.label} {p.problem}" for p in parts if p.problem), None)
        raise no_video_for(missing[0], *([bad] if bad else []))
    pieces = {split: [] for split in SPLITS}
    for part in usable:
        pieces[splits[part.key]].append(Piece(part, part.name, 0, part.num_frames))
    if missing:  # there is one usable video only
        (alone,) = [part for part in unclaimed if splits[part.key] not in missing][:1]
        halves = _halves(alone, heldout_share, min_frames)
        for split in SPLITS:
            pieces[split] = [p for p in pieces[split] if p.part is not alone] + [halves[split]]
    return pieces


def _halves(part: Part, heldout_share: float, min_frames: int) -> dict[str, Piece]:
    """The only video as two pieces, of which the last is held out."""
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
    return split_of_folder(name) or ("heldout" if _draw(name) < heldout_share else "train")


def split_of_folder(name: str) -> str | None:
    """The split that a folder in a video's name puts it into, if any."""
    folders = name.split("/")[:-1]
    return next((split for split in SPLITS if split in folders), None)


def _draw(name: str) -> float:
    """A number in 0..1 that depends on the name only."""
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:4]) / 2**32


def no_video_for(split: str, reason: str = "all are for the other") -> UserError:
    """The error for a split that stays empty."""
    return UserError(
        f"there is no video for the {split} split ({reason}): add videos, or put some into a "
        f"folder called {split}"
    )
