"""Keys that a person has bound anew, kept for each world in the person's settings folder.

In: a world's fingerprint and a `KeyMap`. Out: the same with the person's keys.
"""

import json
from dataclasses import replace
from pathlib import Path

import platformdirs

from genie.errors import UserError
from genie.files import write_whole
from genie.legend import check_bindings
from play.keymap import KeyMap


def path_for(fingerprint: str) -> Path:
    """Where a world's keys are kept; $XDG_CONFIG_HOME moves it."""
    return platformdirs.user_config_path("genie") / "keys" / f"{fingerprint}.json"


def with_own_keys(keymap: KeyMap, fingerprint: str) -> KeyMap:
    """Lay the person's keys, if there are any, over the legend's.

    Raises:
        UserError: if the file is there and not usable.
    """
    path = path_for(fingerprint)
    if not path.exists():
        return keymap
    try:
        keys = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not readable JSON ({error}): delete it") from error
    if not isinstance(keys, dict):
        raise UserError(f"{path} binds no keys: delete it")
    check_bindings(keys, keymap.num_actions, path)
    return replace(keymap, bindings={**keymap.bindings, **keys})


def remember(key: str, action: int, fingerprint: str) -> None:
    """Keep one more key of the person's.

    Raises:
        UserError: if it cannot be written.
    """
    path = path_for(fingerprint)
    try:
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        write_whole(path, json.dumps({**before, key: action}) + "\n")
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"cannot remember the key in {path}: {error}") from error


def forget(fingerprint: str) -> None:
    """Return to the legend's keys.

    Raises:
        UserError: if the file cannot be removed.
    """
    try:
        path_for(fingerprint).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot remove {path_for(fingerprint)}: {error.strerror}") from error
