"""Copy a prepared folder, each video in colours of its own, to train a world on any colours.

    python examples/recolour.py data/frames data/recoloured

The hue of all frames of a video is turned, their saturation, brightness and tint are changed, and a
third of the videos become negatives; a fifth stay as they are. What moves, and where, stays the
same. The same seed gives the same colours.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro
from jaxtyping import Float, UInt8
from options import LARGEST_SEED, check_ranges
from tqdm import tqdm

from genie.data.card import SPLITS, Card, read_card
from genie.data.clips import FrameStore
from genie.data.shards import Shard, ShardWriter, StoredVideo, list_videos, seal, write_card
from genie.errors import UserError
from genie.files import check_folder, whole_folder, writing
from train.errors import one_line_errors

AS_THEY_ARE = 0.2  # share of the videos
NEGATIVE = 0.35  # share of the others
TINTED = 0.6  # share of the others

Frames = UInt8[np.ndarray, "t 3 h w"]


@dataclass(frozen=True, kw_only=True)
class RecolourConfig:
    """Copy a prepared folder, each video in colours of its own."""

    data: tyro.conf.Positional[Path]
    """Folder made by train.prepare, or by record_game.py --arrays."""
    out: tyro.conf.Positional[Path]
    """Folder to create; it appears when it is complete."""
    seed: int = 0
    """Draws the colours."""


def main(config: RecolourConfig) -> None:
    """Write the copy.

    Raises:
        UserError: if the folder cannot be read, or the copy cannot be written.
    """
    check_ranges(config, {"seed": (0, LARGEST_SEED)})
    out = check_folder(config.out)
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty; choose another folder")
    stores = {split: FrameStore.open(config.data, split) for split in SPLITS}
    old = read_card(config.data)
    with writing(out), whole_folder(out.resolve()) as folder:
        written = {
            split: copy_split(store, old, folder / split, config.seed)
            for split, store in stores.items()
        }
        card = replace(
            old,
            **list_videos({split: videos for split, (videos, _) in written.items()}),
            shards={},
            source={"recoloured": str(config.data), "seed": config.seed},
        )
        for split, (_, shards) in written.items():
            seal(folder / split, shards, split, card)
        write_card(card, folder)
    print(f"{out}: {sum(map(len, stores.values()))} frames")


def copy_split(
    store: FrameStore, card: Card, folder: Path, seed: int
) -> tuple[list[StoredVideo], list[Shard]]:
    """Write the frames of a split in new colours."""
    folder.mkdir()
    writer, videos = ShardWriter(folder, store.size), []
    scenes, numbers = card.videos[store.split], store.numbers().numpy()
    for number, name in enumerate(tqdm(scenes, desc=store.split, disable=None)):
        start, stop = store.video_starts[number : number + 2].tolist()
        rng = np.random.default_rng([seed, SPLITS.index(store.split), number])
        frames = new_colours(rng)(store.read(start, stop).numpy())
        writer.write(frames, numbers[start:stop])
        digest = hashlib.sha256(frames.tobytes()).hexdigest()[:16]
        videos.append(StoredVideo(name, scenes[name], digest))
    writer.finish()
    return videos, writer.shards


def new_colours(rng: np.random.Generator) -> Callable[[Frames], Frames]:
    """Draw a change of colours, the same for all frames of a video."""
    if rng.random() < AS_THEY_ARE:
        return lambda frames: frames
    saturation, contrast = rng.uniform(0, 1.5), np.exp(rng.uniform(-0.9, 0.9))
    mix = saturation * np.eye(3) + (1 - saturation) * np.full((3, 3), 1 / 3)
    mix = mix @ hue_turned(rng.uniform(0, 2 * np.pi))
    is_negative = rng.random() < NEGATIVE
    brightest = rng.uniform(0.5, 1, 3) if rng.random() < TINTED else np.ones(3)
    darkest = rng.uniform(0, 0.5) * rng.random(3) * brightest

    def change(frames: Frames) -> Frames:
        colours = np.moveaxis(frames, 1, -1).astype(np.float32) / 255
        mixed = ((colours - 0.5) @ mix.T + 0.5).clip(0, 1)
        bent = (1 - mixed if is_negative else mixed) ** contrast
        changed = darkest + (brightest - darkest) * bent
        return np.ascontiguousarray(np.moveaxis((255 * changed).round(), -1, 1).astype(np.uint8))

    return change


def hue_turned(angle: float) -> Float[np.ndarray, "3 3"]:
    """A rotation of colours about the axis of greys (Rodrigues' formula)."""
    across = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    return np.eye(3) + np.sin(angle) * across + (1 - np.cos(angle)) * across @ across


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(RecolourConfig, description=__doc__))
