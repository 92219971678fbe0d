"""Atomic writes: a file or folder appears complete or not at all.

In: a path and the content. Out: the file, or an error of one line that says why it could not be
written. Knows no file format and reads nothing.
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
    """Yield a temporary path to write to, which replaces `path` at the end.

    An error leaves `path` as it was and deletes the temporary file. That one's name ends in
    `.partial`, so that what a kill leaves behind is not taken for a picture or a video.
    """
    partial = _partial_path(path)
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):  # if it could not be created, deleting it may fail, too
            partial.unlink()
        raise


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder, which replaces `path` at the end."""
    partial = _partial_path(path)
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
    """Write a file atomically, text as UTF-8; its folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turn an `OSError` into an error of one line that names the place.

    Raises:
        UserError: if the system refuses to write.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {place}: {in_one_line(error)}") from error


def check_folder(folder: str | Path) -> Path:
    """Return `folder` if files can be written into it; to call before any long work.

    Raises:
        UserError: if it cannot be made or written.
    """
    folder = Path(folder)
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not existing.is_dir():
        raise UserError(f"cannot write {folder}: {existing} is not a folder; choose another place")
    try:  # permissions are not enough: the disk may be read-only
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        raise UserError(
            f"cannot write {folder}: {in_one_line(error)}; choose another place"
        ) from error
    return folder


def _partial_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")
