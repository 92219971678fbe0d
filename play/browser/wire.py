"""The messages between page and server: text of the page in, commands and binary messages out.

A text message is a JSON object with a verb, such as `{"do": "restart"}`; a binary message from the
page is an image or a video to start from. Knows no sockets and no games.
"""

import json
import math
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from genie.errors import UserError

MAX_TEXT = 2048
MAX_UPLOAD = 16 * 2**20
"""Maximum bytes of a message: an image or a short video."""
MAX_HELD = 16
NO_ACTION = 255
FRAME, FILE, FUTURES, BESIDE = range(4)
HEADER = struct.Struct("<BBHHId")
"""Header of a picture: kind, action, width, height, frame number, and the time, on the page's clock
in ms, of the keys that the frame answers. Little-endian."""


class Command(NamedTuple):
    """A command from a page."""

    verb: str
    values: Mapping[str, Any]


VERBS: dict[str, dict[str, type]] = {
    "keys": {"held": list, "at": float},
    "seen": {"frame": int},
    "restart": {},
    "reseed": {},
    "pause": {},
    "step": {},
    "rewind": {"on": bool},
    "bookmark": {},
    "back": {},
    "tune": {"steps": int, "temperature": float},
    "prompt": {"number": int},
    "beside": {},
    "what_if": {},
    "go": {"action": int},
    "stay": {},
    "save": {"as": str},
}
FILE_KINDS = ("gif", "mp4", "png", "json")


def parse(text: str) -> Command:
    """Parse a text message.

    Raises:
        UserError: if it is not one of `VERBS` with exactly its values.
    """
    if len(text) > MAX_TEXT:
        raise UserError(f"a message of {len(text)} characters: send at most {MAX_TEXT}")
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError('a message is not JSON: send, for example, {"do": "restart"}') from error
    if not isinstance(message, dict) or not isinstance(message.get("do"), str):
        raise UserError('a message has no verb: send, for example, {"do": "restart"}')
    verb = message.pop("do")
    if verb not in VERBS:
        raise UserError("a message has an unknown verb: reload the page")
    wanted = VERBS[verb]
    if message.keys() != wanted.keys():
        raise UserError(f"{verb} takes {', '.join(wanted) or 'no values'}: send these alone")
    return Command(verb, {name: _value(verb, name, message[name], wanted[name]) for name in wanted})


def frame(picture: np.ndarray, *, action: int | None, number: int, at: float) -> bytes:
    """Encode a frame. Args: picture: uint8 (h, w, 3); action, number, at: see `HEADER`."""
    height, width = picture.shape[:2]
    shown = NO_ACTION if action is None else action
    return HEADER.pack(FRAME, shown, width, height, number, at) + picture.tobytes()


def beside(picture: np.ndarray) -> bytes:
    """Encode the real video's frame to show beside the next one. Args: picture: uint8 (h, w, 3)."""
    height, width = picture.shape[:2]
    return HEADER.pack(BESIDE, NO_ACTION, width, height, 0, 0.0) + picture.tobytes()


def futures(pictures: np.ndarray) -> bytes:
    """Encode one frame of every future; the header's action is the number of actions.

    Args:
        pictures: uint8 (actions, h, w, 3).
    """
    count, height, width = pictures.shape[:3]
    return HEADER.pack(FUTURES, count, width, height, 0, 0.0) + pictures.tobytes()


def file(name: str, content: bytes) -> bytes:
    """Encode a file for the page to save."""
    encoded = name.encode()
    return struct.pack("<BB", FILE, len(encoded)) + encoded + content


def _is_exact(value: Any) -> bool:
    """True for an integer that a float represents exactly."""
    return type(value) is int and abs(value) < 2**53


def _value(verb: str, name: str, value: Any, kind: type) -> Any:
    value: Any = float(value) if kind is float and _is_exact(value) else value
    if type(value) is not kind:
        raise UserError(f"{verb}: {name} is not of type {kind.__name__}")
    if kind is float and not math.isfinite(value):
        raise UserError(f"{verb}: {name} is not finite")
    if kind is int and abs(value) >= 2**31:
        raise UserError(f"{verb}: {name} is too large")
    if kind is list and (
        len(value) > MAX_HELD
        or any(not isinstance(key, str) or not 0 < len(key) <= 16 for key in value)
    ):
        raise UserError(f"{verb}: {name} is not a list of at most {MAX_HELD} keys")
    if name == "as" and value not in FILE_KINDS:
        raise UserError(f"{verb}: {name} is not one of {', '.join(FILE_KINDS)}")
    return value
