"""A file that keeps what torch.compile made of a stage's net, for later runs on such a device.

In: the file of an earlier run. Out: the same file with all that this run compiled or loaded. A file
from another device or version does no harm: what does not fit is compiled again.
"""

import logging
from pathlib import Path

import torch

from genie.errors import UserError
from genie.files import write_whole


def load_compiled(path: Path | None) -> None:
    """Load a file, if it exists, into torch.compile's cache.

    Raises:
        UserError: if it cannot be read.
    """
    if path is None or not path.exists():
        return
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    logging.disable(logging.WARNING)  # PyTorch would log a traceback for a torn file
    try:
        found = torch.compiler.load_cache_artifacts(content)
    finally:
        logging.disable(logging.NOTSET)
    if found is None:
        print(f"{path} is torn or not a compile cache: everything is compiled again")


def save_compiled(path: Path | None) -> None:
    """Write what this process compiled or loaded; the file appears whole or not at all.

    If it cannot be written, a warning is printed: a later run only has to compile again.
    """
    if path is None:
        return
    made = torch.compiler.save_cache_artifacts()
    if made is None:
        return
    try:
        write_whole(path, made[0])
    except OSError as error:
        why = error.strerror or error
        print(f"warning: cannot write {path} ({why}): a later run has to compile again")
