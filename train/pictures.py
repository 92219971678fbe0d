"""Contact sheets and an animation of what a world does, for the eye.

In: a world and held-out videos. Out: `actions.png`, `actions.gif` and `rollouts.png`, each written
whole or not at all.
Does not measure, and does not pick: it shows what the seed draws.
"""

import io
import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from genie import video
from genie.data import FrameStore
from genie.errors import UserError
from genie.legend import hold_actions
from genie.world import World
from train.rollouts import HISTORY, draw_clips, infer, roll

NUM_DRAWN_PROMPTS = 3
NUM_DRAWN_CLIPS = 8


@torch.no_grad()
def draw_pictures(
    world: World, store: FrameStore, folder: Path, *, horizon: int = 15, seed: int = 0
) -> None:
    """Write `actions.png`, `actions.gif` and `rollouts.png` to `folder`.

    The prompts are the first that the seed draws, not picked.

    Raises:
        UserError: if the videos are too short or a file cannot be written.
    """
    clips, _ = draw_clips(store, NUM_DRAWN_CLIPS, horizon, seed)
    draw_actions(world, clips[:NUM_DRAWN_PROMPTS, HISTORY], folder, horizon=horizon, seed=seed)
    times = _times(horizon)
    real = clips[:, HISTORY:]
    generated = roll(world, real[:, 0], infer(world, clips)[:, HISTORY:], seed, "pictures")
    pairs = torch.stack([real, torch.cat([real[:, :1], generated], dim=1)], dim=1)
    rows = [
        f"clip {clip}\n{what}" for clip in range(1, len(clips) + 1) for what in ("real", "world")
    ]
    write(folder / "rollouts.png", png(contact_sheet(pairs.flatten(0, 1), rows, times)))


def draw_actions(
    world: World, prompts: UInt8[Tensor, "p 3 h w"], folder: Path, *, horizon: int, seed: int
) -> None:
    """Write `actions.png` and `actions.gif`: every action held from every prompt."""
    films = hold_actions(world, prompts, horizon, seed)
    starts = [f"start {number}" for number in range(1, len(films) + 1)]
    actions = [f"action {action}" for action in range(world.num_actions)]
    rows = [f"{start}\n{action}" for start in starts for action in actions]
    write(folder / "actions.png", png(contact_sheet(films.flatten(0, 1), rows, _times(horizon))))
    moments = [contact_sheet(moment, starts, actions) for moment in films.unbind(2)]
    video.write(folder / "actions.gif", moments, fps=world.fps)


def _times(horizon: int) -> list[str]:
    return ["prompt", *(str(step) for step in range(1, horizon + 1))]


def contact_sheet(
    pictures: UInt8[Tensor, "r c 3 h w"], row_names: list[str], column_names: list[str]
) -> np.ndarray:
    """Lay out pictures in named rows and columns, twice as large: uint8 (height, width, 3)."""
    margin, line, height, width = 60, 16, *(2 * (side + 2) for side in pictures.shape[-2:])
    tiles = F.pad(pictures, (1, 1, 1, 1), value=255)
    board = (
        rearrange(tiles, "r c k h w -> (r h) (c w) k").numpy().repeat(2, axis=0).repeat(2, axis=1)
    )
    sheet = Image.new("RGB", (margin + board.shape[1], line + board.shape[0]), "white")
    sheet.paste(Image.fromarray(board), (margin, line))
    pen = ImageDraw.Draw(sheet)
    for row, name in enumerate(row_names):
        pen.text((4, line + row * height + 4), name, fill="black")
    for column, name in enumerate(column_names):
        pen.text((margin + column * width + 4, 2), name, fill="black")
    return np.asarray(sheet)


def png(sheet: np.ndarray) -> bytes:
    """A picture as a PNG file's content."""
    content = io.BytesIO()
    Image.fromarray(sheet).save(content, format="png")
    return content.getvalue()


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; its folder is made if need be.

    Raises:
        UserError: if the place cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)
