"""Videos to shards: `python -m train.prepare SOURCE... --out DIR`."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import tyro
from tqdm import tqdm

from genie.data.card import Card
from genie.data.parts import FrameOptions, Part
from genie.data.prepare import HELDOUT_SHARE, prepare
from genie.data.sources import left_alone
from train.errors import one_line_errors


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Turn videos into shards that training reads at random. A killed command can be repeated."""

    sources: tyro.conf.Positional[tuple[str, ...]]
    """Folder trees with videos (mp4, mkv, webm, ...) or numbered pictures, single files, or Hugging
    Face datasets (a folder, or hf:owner/name). Folders called train and heldout decide
    the split; otherwise a share of the videos, chosen by name, is held out. Of a single video, the
    last part is held out."""
    out: Path
    """Folder to make."""
    frames: tyro.conf.OmitArgPrefixes[FrameOptions] = field(default_factory=FrameOptions)
    """How frames are taken."""
    heldout_share: float = HELDOUT_SHARE
    """Share of the videos, between 0 and 1, that is held out if no folder decides; at least one
    video always is."""
    workers: int | None = None
    """Processes that decode; default: one per core."""


def main(config: PrepareConfig) -> Card:
    """Prepare the videos and print what became of them."""
    card = prepare(
        config.sources,
        config.out,
        config.frames,
        heldout_share=config.heldout_share,
        workers=config.workers,
        progress=_bar,
    )
    for split, videos in card.videos.items():
        print(
            f"{split}: {len(videos)} videos, {sum(map(len, videos.values()))} scenes, "
            f"{card.num_frames(split)} frames, {card.num_hours(split):.2f} hours"
        )
    dropped = card.num_still + card.num_short
    print(f"{card.num_cuts} cuts; dropped {dropped} of {card.num_decoded} frames")
    for verdict, videos in (("skipped", card.skipped), ("only the beginning of", card.damaged)):
        for name, reason in videos.items():
            _print(f"{verdict} {name}: {reason}")
    for name in card.standing:
        _print(f"warning: nothing moves in {name}, so that nothing can be learnt from it")
    for files in left_alone(config.sources):
        _print(f"left alone: {files}")
    return card


def _print(line: str) -> None:
    """Print a line; bytes of a file's name that are no text become question marks."""
    print(line.encode(errors="replace").decode())


def _bar(parts: Iterable[Part], total: int | None) -> Iterator[Part]:
    yield from tqdm(parts, desc="prepare", unit="video", total=total, mininterval=1)


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(PrepareConfig, description=__doc__))
