"""Contact sheets and an animation of what a world does, to look at.

In: a world, clips and its rollouts. Out: PNG and GIF files, each written whole or not at all.
Measures only to find the best and the worst rollouts.
"""

import io
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from genie import video
from genie.files import write_whole, writing
from genie.frames import to_float
from genie.metrics import psnr
from genie.world import World
from train.measure.effects import hold_actions

NUM_DRAWN_PROMPTS = 3
NUM_DRAWN_CLIPS = 8


def draw_pictures(
    world: World,
    real: UInt8[Tensor, "b t 3 h w"],
    generated: UInt8[Tensor, "b t-1 3 h w"],
    folder: Path,
    *,
    seed: int,
) -> None:
    """Write what each action does, and rollouts next to the true clips.

    `rollouts.png` shows the first clips, without selection; `best.png` and `worst.png` those with
    the largest and the smallest gain over copying the prompt.

    Raises:
        UserError: if a file cannot be written.
    """
    prompts, horizon = real[:, 0], generated.shape[1]
    draw_actions(world, prompts[:NUM_DRAWN_PROMPTS], folder, horizon=horizon, seed=seed)
    future, rollouts = to_float(real[:, 1:]), to_float(generated)
    gains = psnr(rollouts, future) - psnr(to_float(prompts)[:, None].expand_as(future), future)
    order = gains.mean(dim=1).argsort(descending=True, stable=True)
    first = torch.arange(len(real))
    with_prompts = torch.cat([prompts[:, None], generated], dim=1)
    for name, clips in (("rollouts", first), ("best", order), ("worst", order.flip(0))):
        chosen = clips[:NUM_DRAWN_CLIPS]
        pairs = torch.stack([real[chosen], with_prompts[chosen]], dim=1)
        rows = [f"clip {clip + 1}\n{what}" for clip in chosen for what in ("real", "world")]
        sheet = contact_sheet(pairs.flatten(0, 1), rows, _times(horizon))
        write(folder / f"{name}.png", png(sheet))


def draw_long(windows: dict[int, UInt8[Tensor, "b s 3 h w"]], folder: Path) -> None:
    """Write `long.png`: the frame at each step, of the first rollouts."""
    shown = torch.stack([window[:NUM_DRAWN_CLIPS, -1] for window in windows.values()], dim=1)
    rows = [f"film {number}" for number in range(1, len(shown) + 1)]
    write(folder / "long.png", png(contact_sheet(shown, rows, [f"t={step}" for step in windows])))


def draw_actions(
    world: World, prompts: UInt8[Tensor, "p 3 h w"], folder: Path, *, horizon: int, seed: int
) -> None:
    """Write `actions.png` and `actions.gif`: each action held from each prompt."""
    clips = hold_actions(world, prompts, horizon, seed)
    starts = [f"start {number}" for number in range(1, len(clips) + 1)]
    actions = [f"action {action}" for action in range(world.num_actions)]
    rows = [f"{start}\n{action}" for start in starts for action in actions]
    write(folder / "actions.png", png(contact_sheet(clips.flatten(0, 1), rows, _times(horizon))))
    moments = [contact_sheet(moment, starts, actions) for moment in clips.unbind(2)]
    video.write(folder / "actions.gif", moments, fps=world.fps)


def _times(horizon: int) -> list[str]:
    return ["prompt", *(str(step) for step in range(1, horizon + 1))]


def contact_sheet(
    pictures: UInt8[Tensor, "r c 3 h w"], row_names: list[str], column_names: list[str]
) -> np.ndarray:
    """Lay out pictures in named rows and columns, at twice their size: uint8 (h, w, 3)."""
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
    """Encode a picture as PNG."""
    content = io.BytesIO()
    Image.fromarray(sheet).save(content, format="png")
    return content.getvalue()


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; creates its folder if necessary.

    Raises:
        UserError: if it cannot be written.
    """
    with writing(path):
        write_whole(path, content)
