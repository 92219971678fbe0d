"""Captions for pictures in files: what led to each frame.

In: frames and the steps that led to them. Out: enlarged frames with the key of each step, and the
name of its action, in the lower left corner. Draws with Pillow, so that it needs no display.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from genie.legend import ARROWS
from play.keymap import KeyMap
from play.timeline import Step

INK, PAPER, LIT = (224, 229, 238), (15, 17, 22, 190), (122, 184, 255)
SMALLEST_SIDE = 160
"""Smallest shorter side of a picture, in pixels, at which the caption is legible."""


def captioned(
    frames: Sequence[np.ndarray],
    steps: Sequence[Step],
    keymap: KeyMap,
    scale: int,
) -> list[np.ndarray]:
    """Enlarge frames `scale` times and write on each what led to it, uint8 (h, w, 3).

    Args:
        frames: uint8 (h, w, 3); the newest ones of a playthrough.
        steps: all steps of the playthrough; the last one led to the last frame.
        keymap: names of keys and actions.
        scale: integer factor; the frame is enlarged before drawing, so that letters are sharp.
    """
    led_by = [None, *steps][-len(frames) :]
    return [
        _captioned(
            frame.repeat(scale, axis=0).repeat(scale, axis=1), step and _caption(step, keymap)
        )
        for frame, step in zip(frames, led_by, strict=True)
    ]


def readable_scale(size: tuple[int, int], scale: int) -> int:
    """`scale`, or the smallest larger one that makes captions on (height, width) legible."""
    return max(scale, -(-SMALLEST_SIDE // min(size)))


def _captioned(picture: np.ndarray, caption: tuple[str, str] | None) -> np.ndarray:
    if caption is None:
        return picture
    key, words = caption
    image = Image.fromarray(picture)
    pen = ImageDraw.Draw(image, "RGBA")
    height = max(14, min(image.size) // 12)
    font = ImageFont.load_default(size=height * 0.72)
    arrow = height if key in ARROWS else 0
    width = arrow + pen.textlength(words, font=font) + height * 0.8
    left, top = height // 2, image.height - height * 3 // 2
    pen.rounded_rectangle((left, top, left + width, top + height), radius=height // 4, fill=PAPER)
    if arrow:
        middle = (left + height * 0.65, top + height / 2)
        pen.polygon(_arrow(key, middle, height * 0.3), fill=LIT)
    start = (left + height * 0.4 + arrow, top + height / 2)
    pen.text(start, words, font=font, fill=INK, anchor="lm")
    return np.asarray(image.convert("RGB"))


def _caption(step: Step, keymap: KeyMap) -> tuple[str, str]:
    """The key of a step, and what is written: a wish's key says enough, an action has a name."""
    if step.wished:
        return step.wished, step.wished.replace("_", " + ").replace("none", "no key")
    names = [name for name in keymap.names_of(step.action) if name != "none"]
    key, name = next(iter(names), str(step.action + 1)), keymap.name_of(step.action)
    return key, name if key in ARROWS else f"{key}  {name}"


def _arrow(key: str, middle: tuple[float, float], reach: float) -> list[tuple[float, float]]:
    """Corners of a triangle that points in the direction of an arrow key."""
    turn = {"right": (1, 0), "left": (-1, 0), "up": (0, -1), "down": (0, 1)}[key]
    (x, y), (dx, dy) = middle, (turn[0] * reach, turn[1] * reach)
    return [(x + dx, y + dy), (x - dx - dy, y - dy + dx), (x - dx + dy, y - dy - dx)]
