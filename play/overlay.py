"""Captions for pictures in files: the key and the action that led to each frame.

In: frames and the actions that led to them. Out: enlarged frames with the key and the name of each
action in the lower left corner. Draws with Pillow, so that it needs no display.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from genie.legend import ARROWS
from play.keymap import KeyMap

INK, PAPER, LIT = (224, 229, 238), (15, 17, 22, 190), (122, 184, 255)
SMALLEST_SIDE = 160
"""Smallest shorter side of a picture, in pixels, at which the caption is legible."""


def captioned(
    frames: Sequence[np.ndarray],
    actions: Sequence[int],
    keymap: KeyMap,
    scale: int,
    wished: Sequence[str | None] = (),
) -> list[np.ndarray]:
    """Enlarge frames `scale` times and write on each the action that led to it, uint8 (h, w, 3).

    Args:
        frames: uint8 (h, w, 3); the newest ones of a playthrough.
        actions: all actions of the playthrough; the last one led to the last frame.
        keymap: names of keys and actions.
        scale: integer factor; the frame is enlarged before drawing, so that letters are sharp.
        wished: for each action the key that was a wish, which is then shown instead, or None.
    """
    captions = [_caption(action, keymap) for action in actions]
    for number, key in enumerate(wished):
        if key:
            captions[number] = key, key.replace("_", " + ").replace("none", "no key")
    led_by = [None, *captions][-len(frames) :]
    return [
        _captioned(frame.repeat(scale, axis=0).repeat(scale, axis=1), caption)
        for frame, caption in zip(frames, led_by, strict=True)
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


def _caption(action: int, keymap: KeyMap) -> tuple[str, str]:
    """The key of an action, and what is written."""
    names = [name for name in keymap.names_of(action) if name != "none"]
    key, name = next(iter(names), str(action + 1)), keymap.name_of(action)
    return key, name if key in ARROWS else f"{key}  {name}"


def _arrow(key: str, middle: tuple[float, float], reach: float) -> list[tuple[float, float]]:
    """Corners of a triangle that points in the direction of an arrow key."""
    turn = {"right": (1, 0), "left": (-1, 0), "up": (0, -1), "down": (0, 1)}[key]
    (x, y), (dx, dy) = middle, (turn[0] * reach, turn[1] * reach)
    return [(x + dx, y + dy), (x - dx - dy, y - dy + dx), (x - dx + dy, y - dy - dx)]
