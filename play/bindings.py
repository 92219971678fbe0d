"""The user's own key bindings, stored for each world in the user's settings folder.

In: a world's fingerprint and a `KeyMap`. Out: the `KeyMap` with the user's bindings.
"""

import json
from pathlib import Path

import platformdirs

from genie.errors import UserError
from genie.files import write_whole
from genie.legend import check_bindings
from play.keymap import KeyMap


def path_for(fingerprint: str) -> Path:
    """JSON file with the user's bindings of a world; on Linux, below $XDG_CONFIG_HOME if set."""
    return platformdirs.user_config_path("genie") / "keys" / f"{fingerprint}.json"


def with_own_keys(keymap: KeyMap, fingerprint: str) -> KeyMap:
    """Return `keymap` with the user's bindings added; they replace the legend's where both exist.

    Raises:
        UserError: if there is a file and it is not valid.
    """
    path = path_for(fingerprint)
    if not path.exists():
        return keymap
    try:
        keys = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not readable JSON ({error}): delete it") from error
    if not isinstance(keys, dict):
        raise UserError(f'{path} is not a JSON object such as {{"z": 0}}: delete it')
    check_bindings(keys, keymap.num_actions, path)
    return keymap.with_own(keys)


def remember(key: str, action: int, fingerprint: str) -> None:
    """Store one more binding of the user.

    Raises:
        UserError: if the file cannot be read or written.
    """
    path = path_for(fingerprint)
    try:
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        write_whole(path, json.dumps({**before, key: action}) + "\n")
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"cannot remember the key in {path}: {error}") from error


def forget(fingerprint: str) -> None:
    """Delete the user's bindings of a world.

    Raises:
        UserError: if the file cannot be removed.
    """
    try:
        path_for(fingerprint).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot remove {path_for(fingerprint)}: {error.strerror}") from error
