"""Processes that end when those that started them have ended, however that came about."""

import contextlib
import os
import shutil
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path


def end_with_parent() -> None:
    """End this process when the one that started it has ended, be it by SIGKILL.

    Nothing is lost: what is on disk is whole, and the repeated command goes on from there.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(143)

    threading.Thread(target=watch, daemon=True).start()


def end_with(holder: Connection, leftovers: Path | None = None) -> None:
    """End this process when nobody holds the other end of a pipe any more.

    For processes of a pool, whose parent is a server of processes that outlives who asked for them.

    Args:
        holder: this process' end; nothing may come through it.
        leftovers: folder that is then to be deleted, since who would have done it is gone.
    """

    def watch() -> None:
        with contextlib.suppress(EOFError, OSError):
            holder.recv()
        if leftovers:
            _delete(leftovers)
        os._exit(143)

    threading.Thread(target=watch, daemon=True).start()


def _delete(folder: Path) -> None:
    """Delete a folder that others are still writing into; it is not made again."""
    for _ in range(1000):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.01)
