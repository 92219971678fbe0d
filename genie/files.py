"""Files that appear whole or not at all.

In: a place and what belongs there. Out: the file, or one line that says why there is none. Knows no
format, and loads nothing.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from genie.errors import UserError, in_one_line


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A place to write a file to that becomes `path` at the end.

    Whatever goes wrong before leaves `path` as it was, and nothing beside it. Its name ends in
    `.partial`, so that nobody takes what a kill leaves behind for a picture or a video.
    """
    partial = _beside(path)
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):  # where it could not be made, it cannot be looked up either
            partial.unlink()
        raise


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """An empty folder that becomes `path` at the end, in the place of what was there."""
    partial = _beside(path)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        shutil.rmtree(path, ignore_errors=True)
        os.replace(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file, text as UTF-8; the folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """What the system refuses within becomes one line that names the place.

    Raises:
        UserError: if it refuses.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {place}: {in_one_line(error)}") from error


def check_folder(folder: str | Path) -> Path:
    """`folder` if files can be written into it, before any work is done for them.

    Raises:
        UserError: if it cannot be made or written.
    """
    folder = Path(folder)
    made = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not made.is_dir():
        raise UserError(f"cannot write {folder}: {made} is not a folder; choose another place")
    try:  # rights alone do not tell: the disk may be read-only or no disk at all
        tempfile.TemporaryFile(dir=made).close()
    except OSError as error:
        raise UserError(
            f"cannot write {folder}: {in_one_line(error)}; choose another place"
        ) from error
    return folder


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")
