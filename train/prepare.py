"""Videos to shards: `python -m train.prepare SOURCE --out DIR`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tyro
from tqdm import tqdm

from genie import data
from train.stage import one_line_errors


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Turn a folder of videos into shards that training reads at random."""

    source: tyro.conf.Positional[Path]
    """Folder tree with videos (mp4, mkv, webm, mov, avi, gif). Folders called train and heldout
    decide the split; otherwise a share of the videos, chosen by name, is held out. Of a video that
    is alone the last part is."""
    out: Path
    """Folder to make."""
    size: tuple[int, int] = (64, 64)
    """Height and width in pixels that every frame is cropped and resized to."""
    heldout_share: float = 0.1
    """Share of the videos, between 0 and 1, that is held out where no folder decides; at least one
    video always is."""


def main(config: PrepareConfig) -> data.Card:
    """Prepare and say what came of it."""
    card = data.prepare(
        config.source,
        config.out,
        size=config.size,
        heldout_share=config.heldout_share,
        progress=_bar,
    )
    for split, videos in card.videos.items():
        print(f"{split}: {len(videos)} videos, {sum(videos.values())} frames")
    for name, reason in card.skipped.items():
        # A name that is no text is shown with question marks.
        print(f"skipped {name}: {reason}".encode(errors="replace").decode())
    return card


def _bar(paths: list[Path]) -> Iterator[Path]:
    yield from tqdm(paths, desc="prepare", unit="video", mininterval=1)


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(PrepareConfig, description=__doc__))
