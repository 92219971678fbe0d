"""Several processes that work side by side, tell how far they are, and end together.

In: a function and what each process is to call it with. Out: what they return, in order. Whoever
ends first of the command and its processes, and in whatever way, none of the others is left, nor
the folder that they were writing. Knows no games.
"""

import contextlib
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from genie.errors import UserError
from genie.orphans import end_with

TELL_EVERY_S = 0.2

Tell = Callable[[int], None]
"""Called with how much is done so far."""


@contextlib.contextmanager
def side_by_side(
    work: Callable[..., Any], jobs: Sequence[tuple], tell: Tell, folder: Path
) -> Iterator[list[Any]]:
    """Call `work(*job, tell)` in a process for each job; gives what each returned.

    The processes stay until the context is left, so that there is somebody to delete the folder.

    Args:
        work: a function of a module; what it returns must not be an int.
        jobs: what each process is to call it with.
        tell: is given the sum of what the processes have told.
        folder: that the processes write into; they delete it if this process is killed.

    Raises:
        UserError: as a process did, or because one has been killed.
    """
    # Procgen does not survive a fork, so every process starts from nothing.
    context = multiprocessing.get_context("spawn")
    running: dict[Connection, BaseProcess] = {}
    try:
        with _interrupts_ignored():
            for job in jobs:
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(work, job, theirs, folder))
                process.start()
                running[ours] = process
                theirs.close()
        yield _listen(running, tell)
    finally:
        for process in running.values():
            process.kill()
        for process in running.values():
            process.join()


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Processes started meanwhile leave Ctrl-C, which all of them get, to the one that started."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _listen(running: dict[Connection, BaseProcess], tell: Tell) -> list[Any]:
    told = dict.fromkeys(running, 0)
    results: dict[Connection, Any] = {}
    while len(results) < len(running):
        for line in wait([line for line in running if line not in results]):
            try:
                message = line.recv()
            except (EOFError, OSError):
                raise _ended(running[line]) from None
            if isinstance(message, UserError):
                raise message
            if isinstance(message, int):
                told[line] = message
                tell(sum(told.values()))
            else:
                results[line] = message
    return [results[line] for line in running]


def _ended(process: BaseProcess) -> UserError:
    process.join()
    code = process.exitcode or 0
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return UserError(
        f"one of the processes ended early ({how}), perhaps for want of memory: "
        "give fewer --processes or --num-envs"
    )


# In each process


def _work(work: Callable[..., Any], job: tuple, line: Connection, folder: Path) -> None:
    end_with(line, folder)
    next_s, latest = 0.0, 0

    def tell(done: int) -> None:
        nonlocal next_s, latest
        latest = done
        if time.monotonic() >= next_s:
            next_s = time.monotonic() + TELL_EVERY_S
            _send(line, done)

    try:
        result = work(*job, tell)
        _send(line, latest)
    except UserError as error:
        result = error
    _send(line, result)
    _wait_for_the_end()


def _send(line: Connection, message: Any) -> None:
    try:
        line.send(message)
    except ConnectionError:  # nobody listens any more, so `end_with` is at work
        _wait_for_the_end()


def _wait_for_the_end() -> None:
    threading.Event().wait()
