"""Runs a function in several processes, which report their progress and end together.

In: a function and its arguments for each process. Out: the results, in order. When the command or
one of its processes ends early, in whatever way, all others are ended too, and the folder that they
were writing is deleted. Knows no games.
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
from typing import Any, cast

from genie.errors import UserError
from genie.orphans import end_with

TELL_EVERY_S = 0.2

Tell = Callable[[int], None]
"""Called with the amount of work done so far."""


@contextlib.contextmanager
def side_by_side(
    work: Callable[..., Any], jobs: Sequence[tuple], tell: Tell, folder: Path
) -> Iterator[list[Any]]:
    """Call `work(*job, tell)` in a process for each job; yield the list of results.

    The processes stay alive until the context is left, so that they can still delete the folder.

    Args:
        work: a function at the top level of a module; its result must not be an int.
        jobs: arguments of `work` for each process.
        tell: called with the sum of what the processes report.
        folder: folder that the processes write into; they delete it if this process is killed.

    Raises:
        UserError: if a process raises one, or has been killed.
    """
    # Procgen does not survive a fork, so every process is spawned.
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
    """Let processes started in this context ignore Ctrl-C, which only this one then handles."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _listen(running: dict[Connection, BaseProcess], tell: Tell) -> list[Any]:
    progress = dict.fromkeys(running, 0)
    results: dict[Connection, Any] = {}
    while len(results) < len(running):
        ready = wait([pipe for pipe in running if pipe not in results])
        for pipe in cast(list[Connection], ready):  # some of those it was given
            try:
                message = pipe.recv()
            except (EOFError, OSError):
                raise _ended(running[pipe]) from None
            if isinstance(message, UserError):
                raise message
            if isinstance(message, int):
                progress[pipe] = message
                tell(sum(progress.values()))
            else:
                results[pipe] = message
    return [results[pipe] for pipe in running]


def _ended(process: BaseProcess) -> UserError:
    process.join()
    code = process.exitcode or 0
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return UserError(
        f"one of the processes ended early ({how}), perhaps out of memory: "
        "give fewer --processes or --num-envs"
    )


# In each process:


def _work(work: Callable[..., Any], job: tuple, pipe: Connection, folder: Path) -> None:
    end_with(pipe, folder)
    next_s, latest = 0.0, 0

    def tell(done: int) -> None:
        nonlocal next_s, latest
        latest = done
        if time.monotonic() >= next_s:
            next_s = time.monotonic() + TELL_EVERY_S
            _send(pipe, done)

    try:
        result = work(*job, tell)
        _send(pipe, latest)
    except UserError as error:
        result = error
    _send(pipe, result)
    _wait_for_the_end()


def _send(pipe: Connection, message: Any) -> None:
    try:
        pipe.send(message)
    except ConnectionError:  # the command has ended, so `end_with` ends this process
        _wait_for_the_end()


def _wait_for_the_end() -> None:
    threading.Event().wait()
