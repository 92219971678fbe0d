"""What torch.compile made of a stage's net, in a file: the next run on such a device begins there.

In: a file of an earlier run. Out: the same file, with all that this run compiled or took from it. A
file of another device or version does no harm: what does not fit is compiled anew.
"""

import logging
from pathlib import Path

import torch

from genie.errors import UserError
from genie.files import write_whole


def load_compiled(path: Path | None) -> None:
    """Side effect: torch.compile finds what is in a file, where there is one.

    Raises:
        UserError: if it cannot be read.
    """
    if path is None or not path.exists():
        return
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    logging.disable(logging.WARNING)  # the library tells of a torn file by a traceback
    try:
        found = torch.compiler.load_cache_artifacts(content)
    finally:
        logging.disable(logging.NOTSET)
    if found is None:
        print(f"{path} is torn, or no compile cache: all is compiled anew")


def save_compiled(path: Path | None) -> None:
    """Write what this process compiled or took from a file; the file appears whole or not at all.

    Where it cannot be written, that is said, and costs nothing but the compiling of a later run.
    """
    made = torch.compiler.save_cache_artifacts() if path else None
    if made is None:
        return
    try:
        write_whole(path, made[0])
    except OSError as error:
        print(f"warning: cannot write {path} ({error.strerror or error}): nothing is kept of it")
