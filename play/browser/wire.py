"""What goes over the wire between page and server: messages in, bytes out.

Text messages are JSON objects with a verb, `{"do": "restart"}`; a binary message from the page is
a picture or a video to start from. Whatever does not read as one of these is refused in one line.
Knows no sockets and no games.
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
"""Bytes of a message: a picture or a short video."""
MAX_HELD = 16
NO_ACTION = 255
FRAME, FILE, FUTURES, BESIDE = range(4)
HEADER = struct.Struct("<BBHHId")
"""Of pictures: kind, action, width, height, number, and the page's clock of the keys they obey."""


class Command(NamedTuple):
    """What a page asks for."""

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
    """Read a text message.

    Raises:
        UserError: if it is none of `VERBS` with its values, and nothing else.
    """
    if len(text) > MAX_TEXT:
        raise UserError(f"a message of {len(text)} characters: at most {MAX_TEXT}")
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError("a message that is not JSON") from error
    if not isinstance(message, dict) or not isinstance(message.get("do"), str):
        raise UserError('a message without a verb: {"do": "restart"}')
    verb = message.pop("do")
    if verb not in VERBS:
        raise UserError("a verb that is not known")
    wanted = VERBS[verb]
    if message.keys() != wanted.keys():
        raise UserError(f"{verb} wants {sorted(wanted) or 'nothing else'}")
    return Command(verb, {name: _value(verb, name, message[name], wanted[name]) for name in wanted})


def frame(picture: np.ndarray, *, action: int | None, number: int, at: float) -> bytes:
    """A frame for the page. Args: picture: uint8 (h, w, 3); at: see `HEADER`."""
    height, width = picture.shape[:2]
    shown = NO_ACTION if action is None else action
    return HEADER.pack(FRAME, shown, width, height, number, at) + picture.tobytes()


def beside(picture: np.ndarray) -> bytes:
    """The real video's frame beside the next frame. Args: picture: uint8 (h, w, 3)."""
    height, width = picture.shape[:2]
    return HEADER.pack(BESIDE, NO_ACTION, width, height, 0, 0.0) + picture.tobytes()


def futures(pictures: np.ndarray) -> bytes:
    """The same moment under each action; the header's action is how many there are.

    Args:
        pictures: uint8 (actions, h, w, 3).
    """
    count, height, width = pictures.shape[:3]
    return HEADER.pack(FUTURES, count, width, height, 0, 0.0) + pictures.tobytes()


def file(name: str, content: bytes) -> bytes:
    """A file for the page to save."""
    encoded = name.encode()
    return struct.pack("<BB", FILE, len(encoded)) + encoded + content


def _is_exact(value: Any) -> bool:
    """Whether a number is whole, and just as large as a float."""
    return type(value) is int and abs(value) < 2**53


def _value(verb: str, name: str, value: Any, kind: type) -> Any:
    value: Any = float(value) if kind is float and _is_exact(value) else value
    if type(value) is not kind:
        raise UserError(f"{verb}: {name} is no {kind.__name__}")
    if kind is float and not math.isfinite(value):
        raise UserError(f"{verb}: {name} is no finite number")
    if kind is int and abs(value) >= 2**31:
        raise UserError(f"{verb}: {name} is too large")
    if kind is list and (
        len(value) > MAX_HELD
        or any(not isinstance(key, str) or not 0 < len(key) <= 16 for key in value)
    ):
        raise UserError(f"{verb}: {name} is no list of up to {MAX_HELD} keys")
    if name == "as" and value not in FILE_KINDS:
        raise UserError(f"{verb}: choose one of {', '.join(FILE_KINDS)}")
    return value
