"""`python -m train.elsewhere WORLD DATA`: how long pictures from elsewhere keep their look.

Starts the world from pictures that are not of its game, holds actions drawn at random, and looks at
the frames after 10, 50 and 100 steps: are their patches more like the picture's, or like the game's
(see `train.measure.patches`)? How far is their mean colour from the picture's? And how much
contrast is left? A world can keep the colours and lose everything in them: then the patches are
kept, but there is no contrast. Prints a table; writes elsewhere.json and a contact sheet, which
also shows how sharp the frames are.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from jaxtyping import Int, UInt8
from torch import Tensor

from genie import video
from genie.data.clips import FrameStore
from genie.errors import UserError
from genie.files import check_folder, write_whole
from genie.frames import from_pictures, to_float
from genie.world import World
from train.errors import one_line_errors
from train.measure import patches
from train.measure.patches import KnownPatches
from train.measure.pictures import contact_sheet, png, write
from train.measure.rollouts import check_seed, check_sizes, reconstruct

STEPS = (10, 50, 100)
HELD_FRAMES = 8  # frames for which an action is held
NUM_ASKED = 64  # patches of each frame
LEAST = 1 / 255  # smallest contrast to divide by
NUM_REAL = 500  # frames of the game, for comparison
PICTURES = Path(__file__).resolve().parents[1] / "examples" / "pictures"


@dataclass(frozen=True, kw_only=True)
class ElsewhereConfig:
    """Measure how long pictures from elsewhere keep their look in a world."""

    world: tyro.conf.Positional[Path]
    """Checkpoint folder of the world."""
    data: tyro.conf.Positional[Path]
    """Folder made by train.prepare, of the world's game; only its held-out videos are read."""
    pictures: Path = PICTURES
    """Folder of images to start from."""
    seed: int = 0
    """Draws actions, patches and the sampler's noise."""
    out: Path = Path("report")
    """Folder for elsewhere.json and elsewhere.png; created if necessary."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """How much frames look like the pictures that they began with, on average."""

    kept: float
    """Percent of patches that are nearer to one of the picture than to any of the game."""
    to_picture: float
    """Distance to the picture's nearest patch, 0..255."""
    to_game: float
    """Distance to the game's nearest patch, 0..255."""
    colour: float
    """How far the mean colour is from the picture's, 0..255."""
    contrast: float
    """Standard deviation of a frame's pixels, relative to the picture's."""


@torch.no_grad()
def main(config: ElsewhereConfig) -> None:
    """Measure, print the table, write both files.

    Raises:
        UserError: if the world, the data, the pictures or the seed cannot be used, or nothing can
            be written.
    """
    check_seed(config.seed)
    check_folder(config.out)
    world = World.from_pretrained(config.world)
    store = FrameStore.open(config.data, "heldout")
    check_sizes(world, store)
    names, pictures = read_pictures(config.pictures, world.size)
    game = KnownPatches.of(store, config.seed)
    if game is None:
        raise UserError(f"{config.data} has too few held-out videos: hold out two or more")
    rng = np.random.default_rng(config.seed)
    films = world.rollout(
        pictures[:, None], held_actions(world, len(pictures), rng), seed=config.seed
    )
    shown = {"0": reconstruct(world, pictures[:, None])[:, 0]}
    shown |= {str(step): films[:, step - 1] for step in STEPS}
    looks = {step: look(frames, pictures, game, config.seed) for step, frames in shown.items()}
    rows = rng.choice(len(store), min(len(store), NUM_REAL), replace=False)
    real = torch.cat([store.read(row, row + 1) for row in np.sort(rows).tolist()])
    chosen = torch.from_numpy(rng.integers(len(pictures), size=len(real)))
    looks["game"] = look(real, pictures[chosen], game, config.seed)
    print(table(looks))
    found = {"pictures": names, "looks": {step: asdict(own) for step, own in looks.items()}}
    write_whole(config.out / "elsewhere.json", json.dumps(found, indent=1) + "\n")
    columns = torch.stack([pictures, *shown.values()], dim=1)
    sheet = contact_sheet(columns, names, ["picture", *(f"t={step}" for step in shown)])
    write(config.out / "elsewhere.png", png(sheet))


def read_pictures(
    folder: Path, size: tuple[int, int]
) -> tuple[list[str], UInt8[Tensor, "b 3 h w"]]:
    """The names of a folder's images, and the images in the world's size.

    Raises:
        UserError: if there is none, or one cannot be read.
    """
    files = folder.iterdir() if folder.is_dir() else ()
    paths = sorted(path for path in files if path.is_file() and not path.name.startswith("."))
    if not paths:
        raise UserError(f"no image in {folder}: give a folder of pictures")
    frames = np.stack([video.read_image(path, size) for path in paths])
    return [path.stem for path in paths], from_pictures(frames)


def held_actions(world: World, count: int, rng: np.random.Generator) -> Int[Tensor, "b s"]:
    """Actions drawn at random, each held for a while, for all steps of `count` films."""
    num_holds = -(-max(STEPS) // HELD_FRAMES)
    drawn = rng.integers(world.num_actions, size=(count, num_holds))
    return torch.from_numpy(drawn.repeat(HELD_FRAMES, axis=1)[:, : max(STEPS)])


def look(
    frames: UInt8[Tensor, "b 3 h w"],
    pictures: UInt8[Tensor, "b 3 h w"],
    game: KnownPatches,
    seed: int,
) -> Look:
    """Compare each frame with its picture and with the game.

    Args:
        seed: draws the places of the patches.
    """
    rng = np.random.default_rng(seed)
    to_picture, to_game = [], []
    for frame, picture in zip(frames, pictures, strict=True):
        tops, lefts = patches.places(frame.shape[-2:], NUM_ASKED, rng)
        asked = patches.cut(frame[None], np.zeros(NUM_ASKED, np.int64), tops, lefts)
        nobodys = torch.full((NUM_ASKED,), -1)
        to_picture.append(own_patches(picture).nearest(asked, nobodys)[0])
        to_game.append(game.nearest(asked, nobodys)[0])
    ours, others = torch.cat(to_picture), torch.cat(to_game)
    means = [to_float(images).mean(dim=(-2, -1)) for images in (frames, pictures)]
    spreads = [to_float(images).std(dim=(-2, -1)).mean(dim=1) for images in (frames, pictures)]
    return Look(
        kept=100 * (ours < others).double().mean().item(),
        to_picture=255 * ours.mean().item(),
        to_game=255 * others.mean().item(),
        colour=255 * (means[0] - means[1]).square().mean(dim=1).sqrt().mean().item(),
        contrast=(spreads[0] / spreads[1].clamp_min(LEAST)).mean().item(),
    )


def own_patches(picture: UInt8[Tensor, "3 h w"]) -> KnownPatches:
    """All patches of a picture."""
    height, width = picture.shape[-2:]
    side = patches.patch_side((height, width))
    rows, columns = (range(whole - side + 1) for whole in (height, width))
    tops, lefts = (axis.ravel() for axis in np.meshgrid(rows, columns, indexing="ij"))
    cut = patches.cut(picture[None], np.zeros(len(tops), np.int64), tops, lefts)
    return KnownPatches(cut, torch.zeros(len(cut), dtype=torch.int64), torch.empty(0))


def table(looks: dict[str, Look]) -> str:
    """A row for each step, and one for real frames of the game."""
    lines = ["step   patches kept   to picture   to game   colour   contrast"]
    for step, own in looks.items():
        figures = f"{own.to_picture:13.1f}{own.to_game:10.1f}{own.colour:9.1f}{own.contrast:11.2f}"
        lines.append(f"{step:4s}{own.kept:14.0f} %{figures}")
    return "\n".join(lines)


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(ElsewhereConfig))
