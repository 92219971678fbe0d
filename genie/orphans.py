"""Processes that end when the process that started them has ended, for whatever reason."""

import contextlib
import os
import shutil
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path


def end_with_parent() -> None:
    """End this process when the one that started it has ended, even by SIGKILL.

    Nothing is lost: files on disk are complete, and the command, repeated, continues from them.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(143)

    threading.Thread(target=watch, daemon=True).start()


def end_with(holder: Connection, leftovers: Path | None = None) -> None:
    """End this process when the other end of a pipe is closed.

    For processes of a pool: their parent, the fork server, outlives the process that uses the pool.

    Args:
        holder: this process's end; nothing may be sent through it.
        leftovers: folder to delete then, in place of the process that is gone.
    """

    def watch() -> None:
        with contextlib.suppress(EOFError, OSError):
            holder.recv()
        if leftovers:
            _delete(leftovers)
        os._exit(143)

    threading.Thread(target=watch, daemon=True).start()


def _delete(folder: Path) -> None:
    """Delete a folder that other processes are still writing into; they do not make it again."""
    for _ in range(1000):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.01)
